"""The other endpoints of the server published with CosyVoice: a named voice, another language, an instruction.

GET and POST, form or JSON, answered as raw PCM sentence by sentence; the optional fields of `/inference_zero_shot` work
here too, `stream` included.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from light_tts.server.audio_response import AudioResponse
from light_tts.server.inference import Dialect, speak
from light_tts.server.inference_fields import ANSWERS, documentation
from light_tts.types import Mode

SFT = Dialect(missing="spk_id", by_sentence=True)
CROSS_LINGUAL = Dialect(mode=Mode.CROSS_LINGUAL, by_sentence=True)
INSTRUCT = Dialect(mode=Mode.INSTRUCT, missing="spk_id", needs_instruction=True, by_sentence=True)
INSTRUCT2 = Dialect(mode=Mode.INSTRUCT, needs_instruction=True, by_sentence=True)

router = APIRouter()


@router.get("/inference_sft", include_in_schema=False)
@router.post(
    "/inference_sft",
    openapi_extra=documentation("tts_text", "spk_id"),
    responses=ANSWERS,
    response_class=Response,
)
async def inference_sft(request: Request) -> AudioResponse:
    """Speak a text with a registered voice."""
    return await speak(request, SFT)


@router.get("/inference_cross_lingual", include_in_schema=False)
@router.post(
    "/inference_cross_lingual",
    openapi_extra=documentation("tts_text", "prompt_wav", "spk_id"),
    responses=ANSWERS,
    response_class=Response,
)
async def inference_cross_lingual(request: Request) -> AudioResponse:
    """Speak a text with the sound of a recording, whatever language the recording is in."""
    return await speak(request, CROSS_LINGUAL)


@router.get("/inference_instruct", include_in_schema=False)
@router.post(
    "/inference_instruct",
    openapi_extra=documentation("tts_text", "spk_id", "instruct_text"),
    responses=ANSWERS,
    response_class=Response,
)
async def inference_instruct(request: Request) -> AudioResponse:
    """Speak a text with a registered voice, in the way an instruction says."""
    return await speak(request, INSTRUCT)


@router.get("/inference_instruct2", include_in_schema=False)
@router.post(
    "/inference_instruct2",
    openapi_extra=documentation("tts_text", "instruct_text", "prompt_wav", "spk_id"),
    responses=ANSWERS,
    response_class=Response,
)
async def inference_instruct2(request: Request) -> AudioResponse:
    """Speak a text with the voice of a recording, in the way an instruction says."""
    return await speak(request, INSTRUCT2)
