"""`/inference_zero_shot` in both published spellings, and the list of models beside it.

`tts_text`/`prompt_text`/`prompt_wav` answers raw PCM unless told otherwise; `text`/`prompt_audio` answers WAV, as the
clients of that spelling save the body under a `.wav` name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from light_tts.audio_output import FORMATS
from light_tts.errors import InvalidRequest, UnknownModel
from light_tts.server.audio_response import AudioResponse, header_text
from light_tts.server.errors import ConflictingFields
from light_tts.server.fields import Fields
from light_tts.server.request_body import read_values
from light_tts.server.speech_fields import (
    AudioOutput,
    audio_output,
    check_text_length,
    default_voice,
    language_code,
    named_voice,
    recorded_voice,
)
from light_tts.server.state import request_record, server_state
from light_tts.types import ReferenceAudio, SamplingOptions, SynthesisRequest, Voice

if TYPE_CHECKING:
    from light_tts.engine import TTSEngine
    from light_tts.settings import Settings

TEXT = ("tts_text", "text")
RECORDING = ("prompt_wav", "prompt_audio")
STREAM = ("stream", "streaming")
VOICE = ("spk_id", "voice", "zero_shot_spk_id")
OTHER_SPELLING = ("text", "prompt_audio", "streaming", "language")

MIN_SPEED, MAX_SPEED = 0.5, 2.0
MAX_SEED = 2**63 - 1
MIN_TIMEOUT_S, MAX_TIMEOUT_S = 0.1, 86_400.0
SAMPLE_RATES_HZ = (8000, 16000, 22050, 24000, 48000)

router = APIRouter()

_FIELD_TYPES: dict[str, dict[str, Any]] = {
    "tts_text": {"type": "string", "description": "What to say; alias `text`."},
    "prompt_text": {"type": "string", "description": "Transcript of the recording; without it: cross-lingual."},
    "prompt_wav": {"type": "string", "format": "binary", "description": "Reference recording; alias `prompt_audio`."},
    "spk_id": {"type": "string", "description": "A registered voice; aliases `voice`, `zero_shot_spk_id`."},
    "stream": {"type": "boolean", "default": False, "description": "Alias `streaming`."},
    "language": {"type": "string", "default": "auto"},
    "tts_model_name": {"type": "string", "default": "default"},
    "speed": {"type": "number", "minimum": MIN_SPEED, "maximum": MAX_SPEED, "default": 1.0},
    "seed": {"type": "integer", "minimum": 0},
    "flow_steps": {"type": "integer", "minimum": 1, "maximum": 50},
    "response_format": {"type": "string", "enum": list(FORMATS)},
    "sample_rate": {"type": "integer", "enum": list(SAMPLE_RATES_HZ)},
    "text_frontend": {"type": "boolean", "default": True},
    "top_p": {"type": "number"},
    "top_k": {"type": "integer"},
    "temperature": {"type": "number"},
    "timeout_s": {"type": "number", "description": "Ends the request earlier than the server would."},
}
_FORM = {"schema": {"type": "object", "properties": _FIELD_TYPES}}
_DOCUMENTATION = {"requestBody": {"content": {"multipart/form-data": _FORM, "application/json": _FORM}}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Audio.", "content": {"audio/pcm": {}, "audio/wav": {}}},
    **{status: {"description": "`message`, `detail`, `error_code`."} for status in (400, 404, 413, 415, 422, 500, 503)},
}


@router.api_route("/inference_zero_shot/", methods=["GET", "POST"], include_in_schema=False)
@router.get("/inference_zero_shot", include_in_schema=False)
@router.post("/inference_zero_shot", openapi_extra=_DOCUMENTATION, responses=_ANSWERS, response_class=Response)
async def inference_zero_shot(request: Request) -> AudioResponse:
    """Speak a text with the voice of a recording or of a registered speaker."""
    state, record = server_state(request), request_record(request)
    engine = state.ready_engine()
    fields = Fields(await read_values(request))
    record.mark_received()
    output = _output(fields, request.headers.get("accept", ""))
    synthesis = await _synthesis(fields, engine, state.settings, output, record.request_id)
    voice = _voice_label(synthesis.voice)
    record.voice, record.model, record.text_chars = voice, synthesis.model, len(synthesis.text)
    record.text = synthesis.text if state.settings.server.log_text else None
    return AudioResponse(
        engine.submit(synthesis),
        output,
        record,
        state.metrics,
        send_timeout_s=state.settings.engine.request_timeout_s,
        headers={"X-Voice": header_text(voice)} if voice else None,
    )


@router.api_route("/query_tts_model/", methods=["GET", "POST"], include_in_schema=False)
@router.get("/query_tts_model")
@router.post("/query_tts_model", include_in_schema=False)
async def query_tts_model(request: Request) -> JSONResponse:
    """The names that `tts_model_name` may have; the first is the default."""
    return JSONResponse({"tts_models": server_state(request).ready_engine().model_names})


async def _synthesis(
    fields: Fields, engine: TTSEngine, settings: Settings, output: AudioOutput, request_id: str
) -> SynthesisRequest:
    text = fields.text(*TEXT, required=True)
    options = read_options(fields)
    model = fields.word("tts_model_name") or "default"
    language = language_code(fields.word("language"))
    voice = await _voice(fields, engine, settings, text, language)
    fields.check()
    assert text is not None
    check_text_length(text, TEXT[0] if fields.has(TEXT[0]) else TEXT[1], settings)
    return SynthesisRequest(
        text=text,
        voice=voice,
        stream=output.stream,
        language=language,
        model=check_model(model, engine),
        request_id=request_id,
        **options,
    )


def read_options(fields: Fields) -> dict[str, Any]:
    """The optional fields that HTTP and WebSocket share, as arguments of SynthesisRequest."""
    temperature = fields.number("temperature", low=0.0, high=5.0)
    speed = fields.number("speed", low=MIN_SPEED, high=MAX_SPEED)
    return {
        "speed": 1.0 if speed is None else speed,
        "seed": fields.integer("seed", low=0, high=MAX_SEED),
        "flow_steps": fields.integer("flow_steps", low=1, high=50),
        "text_frontend": fields.boolean("text_frontend", default=True),
        "timeout_s": fields.number("timeout_s", low=MIN_TIMEOUT_S, high=MAX_TIMEOUT_S),
        "sampling": SamplingOptions(
            top_p=fields.number("top_p", low=0.01, high=1.0),
            top_k=fields.integer("top_k", low=1, high=10_000),
            temperature=temperature or None,
            greedy=temperature == 0.0,
        ),
    }


def check_model(name: str, engine: TTSEngine) -> str:
    """The style's name as the engine knows it. Raises UnknownModel with the list."""
    if name in ("default", engine.model_name):
        return "default"
    if name not in engine.model_names:
        models = ", ".join(["default", *engine.model_names])
        raise UnknownModel(f"Unknown model {name[:80]!r}. Models: {models}.", "tts_model_name")
    return name


async def _voice(
    fields: Fields, engine: TTSEngine, settings: Settings, text: str | None, language: str
) -> str | Voice | ReferenceAudio | None:
    prompt_text = fields.text("prompt_text")
    name = fields.word(*VOICE)
    if name is None and (said := _name_in_place_of_recording(fields, engine)) is not None:
        name = said
    elif (recording := fields.recording(*RECORDING)) is not None:
        if name is not None:
            raise ConflictingFields("A recording and a registered voice are both given; send one.", RECORDING[0])
        return recorded_voice(recording, prompt_text, RECORDING[0], settings)
    if name is not None:
        fields.check()
        return await named_voice(name, prompt_text, engine, "spk_id")
    if prompt_text:
        # A transcript of nothing: the recording was forgotten.
        fields.missing(RECORDING[0])
        return None
    return default_voice(engine, settings, text, language)


def _name_in_place_of_recording(fields: Fields, engine: TTSEngine) -> str | None:
    """JSON callers may put a registered voice's name where a form has the file."""
    said = fields.plain_text(*RECORDING)
    return said if said is not None and said in engine.voices.names() else None


def _output(fields: Fields, accept: str) -> AudioOutput:
    wanted = fields.word("response_format")
    if wanted is None and "audio/wav" in accept:
        wanted = "wav"
    if wanted is None:
        wanted = "wav" if fields.has(*OTHER_SPELLING) and not fields.has("tts_text", "prompt_wav") else "pcm"
    rate_hz = fields.integer("sample_rate", low=SAMPLE_RATES_HZ[0], high=SAMPLE_RATES_HZ[-1])
    if rate_hz is not None and rate_hz not in SAMPLE_RATES_HZ:
        rates = ", ".join(map(str, SAMPLE_RATES_HZ))
        raise InvalidRequest(f"sample_rate must be one of {rates}, not {rate_hz}.", "sample_rate")
    return audio_output(wanted.lower(), rate_hz, stream=fields.boolean(*STREAM, default=False))


def _voice_label(voice: str | Voice | ReferenceAudio | None) -> str | None:
    if isinstance(voice, Voice):
        return voice.id
    return voice if isinstance(voice, str) else None
