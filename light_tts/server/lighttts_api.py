"""`/inference_zero_shot` in both published spellings, and the list of models beside it.

`tts_text`/`prompt_text`/`prompt_wav` answers raw PCM unless told otherwise; `text`/`prompt_audio` answers WAV, as the
clients of that spelling save the body under a `.wav` name.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from light_tts.server.audio_response import AudioResponse
from light_tts.server.inference import Dialect, speak
from light_tts.server.inference_fields import ANSWERS, documentation
from light_tts.server.state import server_state

ZERO_SHOT = Dialect(may_use_default=True)

router = APIRouter()


@router.get("/inference_zero_shot", include_in_schema=False)
@router.post(
    "/inference_zero_shot",
    openapi_extra=documentation("tts_text", "prompt_text", "prompt_wav", "spk_id"),
    responses=ANSWERS,
    response_class=Response,
)
async def inference_zero_shot(request: Request) -> AudioResponse:
    """Speak a text with the voice of a recording or of a registered speaker."""
    return await speak(request, ZERO_SHOT)


@router.get("/query_tts_model")
@router.post("/query_tts_model", include_in_schema=False)
async def query_tts_model(request: Request) -> JSONResponse:
    """The names that `tts_model_name` may have; the first is the default."""
    return JSONResponse({"tts_models": server_state(request).ready_engine().model_names})
