"""`POST /v1/audio/speech`, as clients of the OpenAI API expect it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from light_tts.audio_output import FORMATS
from light_tts.errors import InvalidRequest
from light_tts.server.audio_response import AudioResponse, header_text
from light_tts.server.errors import ConflictingFields
from light_tts.server.fields import Fields
from light_tts.server.framing import EventFraming, RawFraming
from light_tts.server.openai_models import served_model
from light_tts.server.recording_fetch import MAX_URL_CHARS, fetch_recording, is_address
from light_tts.server.request_body import read_json
from light_tts.server.request_record import RequestRecord
from light_tts.server.speech_fields import (
    AudioOutput,
    audio_output,
    check_text_length,
    language_code,
    named_voice,
    recorded_voice,
    voice_label,
)
from light_tts.server.state import request_record, server_state
from light_tts.server.voice_aliases import VoiceAliases
from light_tts.types import ReferenceAudio, RegisteredVoice, SynthesisRequest

if TYPE_CHECKING:
    from light_tts.settings import Settings
    from light_tts.speech_engine import SpeechEngine

logger = logging.getLogger(__name__)

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
    **{status: {"description": "An error object."} for status in (400, 401, 404, 413, 429, 500, 503, 504)},
}


@router.get("", include_in_schema=False)
async def base() -> JSONResponse:
    """Some clients request the bare base URL to warm a connection up."""
    return JSONResponse({"object": "light-tts"})


@router.post("/audio/speech", openapi_extra=_DOCUMENTATION, responses=_ANSWERS, response_class=Response)
async def speech(request: Request) -> AudioResponse:
    """Speak a text; see https://platform.openai.com/docs/api-reference/audio/createSpeech."""
    state, record = server_state(request), request_record(request)
    engine = state.ready_engine()
    fields = Fields(_voice_flattened(await read_json(request)))
    record.mark_received()
    output = _output(fields)
    is_events = _choice(fields, "stream_format", ("audio", "sse")) == "sse"
    synthesis = await _synthesis(fields, engine, state.settings, output, record)
    voice = voice_label(synthesis)
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
        send_timeout_s=state.settings.engine.request_timeout_s,
        framing=EventFraming() if is_events else RawFraming(),
        headers=headers,
    )


async def _synthesis(
    fields: Fields, engine: SpeechEngine, settings: Settings, output: AudioOutput, record: RequestRecord
) -> SynthesisRequest:
    text = fields.text("input", required=True)
    speed = fields.number("speed", low=MIN_SPEED, high=MAX_SPEED)
    seed = fields.integer("seed", low=0, high=MAX_SEED)
    language = language_code(fields.word("language", "lang_code"))
    model = fields.word("model")
    instructions = fields.word("instructions")
    fields.check()
    assert text is not None
    if not text.strip():
        raise InvalidRequest("input is empty; send the text to speak.", "input")
    check_text_length(text, "input", settings)
    style = served_model(model, engine, accept_any=settings.server.accept_any_model)
    # Last, as it may fetch a recording, which is not worth it for a request that is refused anyway.
    voice = await _voice(fields, engine, settings, text, language)
    return SynthesisRequest(
        text=text,
        voice=voice,
        instruction=_instruction(instructions, voice, engine),
        stream=output.stream,
        speed=1.0 if speed is None else speed,
        seed=seed,
        language=language,
        model=style,
        caller=record.caller,
        request_id=record.request_id,
    )


def _voice_flattened(body: dict[str, Any]) -> dict[str, Any]:
    """The current SDK writes a custom voice as `{"id": name}`."""
    voice = body.get("voice")
    if isinstance(voice, dict):
        return {**body, "voice": voice.get("id", voice)}
    return body


async def _voice(
    fields: Fields, engine: SpeechEngine, settings: Settings, text: str, language: str
) -> str | RegisteredVoice | ReferenceAudio:
    name = fields.word("voice")
    ref_text = fields.text("ref_text")
    aliases = VoiceAliases(engine, settings)
    sent = fields.plain_text("ref_audio", max_chars=MAX_URL_CHARS)
    address = sent if sent is not None and is_address(sent) else None
    recording = None if address else fields.recording("ref_audio")
    fields.check()
    if address is None and recording is None:
        voice = aliases.resolve(name, text, language)
        return named_voice(voice, ref_text, engine) if ref_text and not aliases.means_default(name) else voice
    if not aliases.means_default(name):
        aliases.resolve(name, text, language)
        raise ConflictingFields("ref_audio and a registered voice are both given; send one.", "ref_audio")
    if address is not None:
        recording = await fetch_recording(address, "ref_audio", settings)
    assert recording is not None
    return recorded_voice(recording, ref_text, "ref_audio", settings)


def _instruction(words: str | None, voice: str | RegisteredVoice | ReferenceAudio, engine: SpeechEngine) -> str | None:
    """Style text for the instruct mode; None when there is none, or when the voice has no such mode."""
    # Home Assistant sends the word None when its prompt is not set.
    if words is None or words == "None":
        return None
    if not isinstance(voice, ReferenceAudio):
        name = voice if isinstance(voice, str) else voice.name
        if not engine.voices.get(name).has_prompt:
            logger.debug("the voice %s has no recording to be instructed with; instructions are left out", name)
            return None
    return words


def _output(fields: Fields) -> AudioOutput:
    rate_hz = fields.integer("sample_rate", low=8000, high=48000)
    name = fields.word("response_format") or "mp3"
    return audio_output(name, rate_hz, stream=fields.boolean("stream", default=True))


def _choice(fields: Fields, name: str, allowed: tuple[str, ...]) -> str:
    value = fields.word(name) or allowed[0]
    if value not in allowed:
        raise InvalidRequest(f"{name} must be one of {', '.join(allowed)}, not {value[:40]!r}.", name)
    return value
