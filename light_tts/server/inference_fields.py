"""The fields of the `/inference_...` endpoints, read in one way: text, voice, output, options and their spellings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from light_tts.audio_output import FORMATS
from light_tts.errors import InvalidRequest, UnknownModel, UnknownVoice
from light_tts.server.errors import ConflictingFields
from light_tts.server.fields import Fields
from light_tts.server.speech_fields import (
    AudioOutput,
    audio_output,
    default_voice,
    named_voice,
    recorded_voice,
)
from light_tts.types import ReferenceAudio, RegisteredVoice, SamplingOptions

if TYPE_CHECKING:
    from light_tts.settings import Settings
    from light_tts.speech_engine import SpeechEngine

TEXT = ("tts_text", "text")
RECORDING = ("prompt_wav", "prompt_audio")
STREAM = ("stream", "streaming")
VOICE = ("spk_id", "voice", "zero_shot_spk_id")
OTHER_SPELLING = ("text", "prompt_audio", "streaming", "language")

MIN_SPEED, MAX_SPEED = 0.5, 2.0
MAX_SEED = 2**63 - 1
MIN_TIMEOUT_S, MAX_TIMEOUT_S = 0.1, 86_400.0
SAMPLE_RATES_HZ = (8000, 16000, 22050, 24000, 48000)

_OPTIONS: dict[str, dict[str, Any]] = {
    "stream": {"type": "boolean", "description": "Alias `streaming`."},
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
    "cache": {"type": "boolean", "description": "false: never answered from the cache of short texts."},
}
_SPECIFIC: dict[str, dict[str, Any]] = {
    "tts_text": {"type": "string", "description": "What to say; alias `text`."},
    "prompt_text": {"type": "string", "description": "Transcript of the recording; without it: cross-lingual."},
    "prompt_wav": {"type": "string", "format": "binary", "description": "Reference recording; alias `prompt_audio`."},
    "spk_id": {"type": "string", "description": "A registered voice; aliases `voice`, `zero_shot_spk_id`."},
    "instruct_text": {"type": "string", "description": "How to speak, in words."},
    "text": {"type": "string", "description": "What to say; alias `tts_text`."},
    "voice_template": {"type": "string", "description": "A registered voice; aliases `spk_id`, `voice`."},
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Audio.", "content": {"audio/pcm": {}, "audio/wav": {}}},
    **{status: {"description": "`message`, `detail`, `error_code`."} for status in (400, 404, 413, 415, 422, 500, 503)},
}


def documentation(*names: str) -> dict[str, Any]:
    """The OpenAPI text of an endpoint with these fields and all the optional ones."""
    form = {"schema": {"type": "object", "properties": {name: _SPECIFIC[name] for name in names} | _OPTIONS}}
    return {"requestBody": {"content": {"multipart/form-data": form, "application/json": form}}}


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
        "phrase_cache": None if fields.boolean("cache", default=True) else False,
        "sampling": SamplingOptions(
            top_p=fields.number("top_p", low=0.01, high=1.0),
            top_k=fields.integer("top_k", low=1, high=10_000),
            temperature=temperature or None,
            greedy=temperature == 0.0,
        ),
    }


def check_model(name: str, engine: SpeechEngine) -> str:
    """The style's name as the engine knows it. Raises UnknownModel with the list."""
    if name in ("default", engine.model_name):
        return "default"
    if name not in engine.model_names:
        models = ", ".join(["default", *engine.model_names])
        raise UnknownModel(f"Unknown model {name[:80]!r}. Models: {models}.", "tts_model_name")
    return name


def read_output(
    fields: Fields, accept: str, *, stream_by_default: bool = False, format_by_default: str | None = None
) -> AudioOutput:
    """Format, rate and streaming of the answer. Without a word about the format: `format_by_default`; when that is
    None, WAV for the spelling whose clients save the body under a `.wav` name, raw PCM for the other.
    """
    wanted = fields.word("response_format")
    if wanted is None and "audio/wav" in accept:
        wanted = "wav"
    if wanted is None:
        wanted = format_by_default
    if wanted is None:
        wanted = "wav" if fields.has(*OTHER_SPELLING) and not fields.has("tts_text", "prompt_wav") else "pcm"
    rate_hz = fields.integer("sample_rate", low=SAMPLE_RATES_HZ[0], high=SAMPLE_RATES_HZ[-1])
    if rate_hz is not None and rate_hz not in SAMPLE_RATES_HZ:
        rates = ", ".join(map(str, SAMPLE_RATES_HZ))
        raise InvalidRequest(f"sample_rate must be one of {rates}, not {rate_hz}.", "sample_rate")
    stream = fields.boolean(*STREAM, default=stream_by_default)
    return audio_output(wanted.lower(), rate_hz, stream=stream)


def read_voice(
    fields: Fields, engine: SpeechEngine, settings: Settings, *, missing: str = RECORDING[0]
) -> str | RegisteredVoice | ReferenceAudio | None:
    """The recording sent along or the registered voice that is named. When neither is there: None, and the field
    `missing` is noted as such. JSON callers may put a voice's name where a form has the file.
    """
    prompt_text = fields.text("prompt_text")
    name = fields.word(*VOICE)
    if name is None and (said := _name_in_place_of_recording(fields, engine)) is not None:
        name = said
    elif (recording := fields.recording(*RECORDING)) is not None:
        if name is not None:
            raise ConflictingFields("A recording and a registered voice are both given; send one.", RECORDING[0])
        return recorded_voice(recording, prompt_text, RECORDING[0], settings)
    if name is None:
        fields.missing(missing)
        return None
    fields.check()
    return named_voice(name, prompt_text, engine, VOICE[0])


def says_nothing_of_its_voice(fields: Fields) -> bool:
    """True when neither a recording nor a voice is given, nor a transcript: that of a recording that was forgotten."""
    return not (fields.word(*VOICE) or fields.given(*RECORDING) or fields.text("prompt_text"))


def server_voice(
    fields: Fields, engine: SpeechEngine, settings: Settings, text: str | None, language: str
) -> str | None:
    """The default voice; where the server has none, a recording is noted as missing."""
    try:
        return default_voice(engine, settings, text, language)
    except UnknownVoice:
        fields.missing(RECORDING[0])
        return None


def _name_in_place_of_recording(fields: Fields, engine: SpeechEngine) -> str | None:
    said = fields.plain_text(*RECORDING)
    return said if said is not None and said in engine.voices.names() else None
