"""`POST /v1/audio/speech` and the lists of models, as clients of the OpenAI API expect them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from light_tts.audio_output import FORMATS
from light_tts.errors import InvalidRequest, UnknownModel, Unsupported
from light_tts.server.audio_response import AudioResponse, header_text
from light_tts.server.errors import ConflictingFields
from light_tts.server.fields import Fields
from light_tts.server.framing import EventFraming, RawFraming
from light_tts.server.request_body import read_json
from light_tts.server.speech_fields import (
    AudioOutput,
    aliased_voice,
    audio_output,
    check_text_length,
    check_voice,
    default_voice,
    language_code,
    named_voice,
    recorded_voice,
)
from light_tts.server.state import request_record, server_state
from light_tts.types import ReferenceAudio, SynthesisRequest, Voice

if TYPE_CHECKING:
    from light_tts.engine import TTSEngine
    from light_tts.settings import Settings

logger = logging.getLogger(__name__)

CLOUD_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15")
# Some clients offer or accept no other names; each means the default voice unless one is registered under it.
CLOUD_VOICES = (
    "alloy",
    "ash",
    "ballad",
    "cedar",
    "coral",
    "echo",
    "fable",
    "marin",
    "nova",
    "onyx",
    "sage",
    "shimmer",
    "verse",
)
MIN_SPEED, MAX_SPEED = 0.25, 4.0
MAX_SEED = 2**63 - 1

router = APIRouter(prefix="/v1")

_SCHEMA = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {"type": "string", "minLength": 1},
        "model": {"type": "string"},
        "voice": {"oneOf": [{"type": "string"}, {"type": "object", "properties": {"id": {"type": "string"}}}]},
        "response_format": {"type": "string", "enum": list(FORMATS), "default": "mp3"},
        "speed": {"type": "number", "minimum": MIN_SPEED, "maximum": MAX_SPEED, "default": 1.0},
        "instructions": {"type": "string"},
        "stream_format": {"type": "string", "enum": ["audio", "sse"], "default": "audio"},
        "stream": {"type": "boolean", "default": True, "description": "false: answer only when complete."},
        "language": {"type": "string"},
        "sample_rate": {"type": "integer", "minimum": 8000, "maximum": 48000, "default": 24000},
        "seed": {"type": "integer"},
        "ref_audio": {"type": "string", "description": "base64 or a data: URL; clone this recording once."},
        "ref_text": {"type": "string"},
    },
}
_DOCUMENTATION = {"requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Audio.", "content": {f.media_type: {} for f in FORMATS.values()}},
    **{status: {"description": "An error object."} for status in (400, 401, 404, 413, 500, 503, 504)},
}


@router.get("", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def base() -> JSONResponse:
    """Some clients request the bare base URL to warm a connection up."""
    return JSONResponse({"object": "light-tts"})


@router.post("/audio/speech/", include_in_schema=False)
@router.post("/audio/speech", openapi_extra=_DOCUMENTATION, responses=_ANSWERS, response_class=Response)
async def speech(request: Request) -> AudioResponse:
    """Speak a text; see https://platform.openai.com/docs/api-reference/audio/createSpeech."""
    state, record = server_state(request), request_record(request)
    engine = state.ready_engine()
    fields = Fields(_voice_flattened(await read_json(request)))
    record.mark_received()
    output = _output(fields)
    is_events = _choice(fields, "stream_format", ("audio", "sse")) == "sse"
    synthesis = await _synthesis(fields, engine, state.settings, output, record.request_id)
    voice = synthesis.voice if isinstance(synthesis.voice, str) else getattr(synthesis.voice, "id", None)
    record.voice, record.model, record.text_chars = voice, synthesis.model, len(synthesis.text)
    record.text = synthesis.text if state.settings.server.log_text else None
    headers = {"Content-Disposition": f'attachment; filename="speech.{FORMATS[output.format_name].extension}"'}
    headers["X-Audio-Sample-Rate"] = str(output.sample_rate_hz)
    if voice:
        headers["X-Voice"] = header_text(voice)
    return AudioResponse(
        engine.submit(synthesis),
        output,
        record,
        state.metrics,
        send_timeout_s=state.settings.engine.request_timeout_s,
        framing=EventFraming() if is_events else RawFraming(),
        headers=headers,
    )


async def _synthesis(
    fields: Fields, engine: TTSEngine, settings: Settings, output: AudioOutput, request_id: str
) -> SynthesisRequest:
    text = fields.text("input", required=True)
    speed = fields.number("speed", low=MIN_SPEED, high=MAX_SPEED)
    seed = fields.integer("seed", low=0, high=MAX_SEED)
    language = language_code(fields.word("language", "lang_code"))
    model = fields.word("model")
    instruction = fields.word("instructions")
    voice = await _voice(fields, engine, settings, text, language)
    fields.check()
    assert text is not None
    if not text.strip():
        raise InvalidRequest("input is empty; send the text to speak.", "input")
    check_text_length(text, "input", settings)
    return SynthesisRequest(
        text=text,
        voice=voice,
        # Home Assistant sends the word None when its prompt is not set.
        instruction=None if instruction == "None" else instruction,
        stream=output.stream,
        speed=1.0 if speed is None else speed,
        seed=seed,
        language=language,
        model=_style(model, engine),
        request_id=request_id,
    )


def _voice_flattened(body: dict[str, Any]) -> dict[str, Any]:
    """The current SDK writes a custom voice as `{"id": name}`."""
    voice = body.get("voice")
    if isinstance(voice, dict):
        return {**body, "voice": voice.get("id", voice)}
    return body


async def _voice(
    fields: Fields, engine: TTSEngine, settings: Settings, text: str | None, language: str
) -> str | Voice | ReferenceAudio:
    name = fields.word("voice")
    ref_text = fields.text("ref_text")
    if (fields.plain_text("ref_audio") or "").startswith(("http://", "https://", "file://")):
        raise Unsupported("ref_audio is not fetched from an address; send it as base64 or a data: URL.", "ref_audio")
    recording = fields.recording("ref_audio")
    is_alias = name in ("default", *CLOUD_VOICES) and name not in engine.voices.names()
    if recording is not None:
        if name is not None and not is_alias:
            check_voice(name, engine)
            raise ConflictingFields("ref_audio and a registered voice are both given; send one.", "ref_audio")
        return recorded_voice(recording, ref_text, "ref_audio", settings)
    if name is not None and not is_alias:
        fields.check()
        return await named_voice(name, ref_text, engine)
    if name in CLOUD_VOICES:
        return aliased_voice(engine, settings, text, language)
    return default_voice(engine, settings, text, language)


def _output(fields: Fields) -> AudioOutput:
    rate_hz = fields.integer("sample_rate", low=8000, high=48000)
    name = fields.word("response_format") or "mp3"
    return audio_output(name, rate_hz, stream=fields.boolean("stream", default=True))


def _choice(fields: Fields, name: str, allowed: tuple[str, ...]) -> str:
    value = fields.word(name) or allowed[0]
    if value not in allowed:
        raise InvalidRequest(f"{name} must be one of {', '.join(allowed)}, not {value[:40]!r}.", name)
    return value


def _style(model: str | None, engine: TTSEngine) -> str:
    if model is None or model in ("default", engine.model_name, *CLOUD_MODELS):
        return "default"
    if model in engine.model_names:
        return model
    raise UnknownModel(f"Unknown model {model[:80]!r}. Models: {', '.join(_model_ids(engine))}.", "model")


def _model_ids(engine: TTSEngine) -> list[str]:
    """What pickers show: the model, its styles when it has several, and the name that pickers filter by."""
    styles = engine.model_names if len(engine.model_names) > 1 else []
    return list(dict.fromkeys([engine.model_name, *styles, CLOUD_MODELS[0]]))


@router.get("/models")
async def models(request: Request) -> JSONResponse:
    """The models served."""
    state = server_state(request)
    data = [_model(name, state.created_at) for name in _model_ids(state.ready_engine())]
    return JSONResponse({"object": "list", "data": data})


@router.get("/models/{model_id:path}")
async def model(request: Request, model_id: str) -> JSONResponse:
    """One model; aliases are found too."""
    state = server_state(request)
    _style(model_id, state.ready_engine())
    return JSONResponse(_model(model_id, state.created_at))


@router.get("/audio/models")
async def audio_models(request: Request) -> JSONResponse:
    """The models served, under both keys that clients read."""
    state = server_state(request)
    data = [_model(name, state.created_at) for name in _model_ids(state.ready_engine())]
    return JSONResponse({"object": "list", "models": data, "data": data})


def _model(name: str, created_at: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created_at, "owned_by": "light-tts"}
