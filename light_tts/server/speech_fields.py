"""What both HTTP surfaces read from a request in the same way: language, voice, model, text length, output format."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from light_tts.audio_output import FORMATS, check_sample_rate
from light_tts.errors import InvalidRequest, TextTooLong, UnknownVoice, Unsupported
from light_tts.server.errors import RequestTooLarge
from light_tts.types import SAMPLE_RATE_HZ, ReferenceAudio, RegisteredVoice, SynthesisRequest

if TYPE_CHECKING:
    from light_tts.settings import Settings
    from light_tts.speech_engine import SpeechEngine

LANGUAGES = ("zh", "en", "ja", "ko", "yue", "de", "fr", "es", "it", "ru", "auto")
_LANGUAGE_WORDS = {
    "中文": "zh",
    "英文": "en",
    "日文": "ja",
    "日语": "ja",
    "韩文": "ko",
    "粤语": "yue",
    "chinese": "zh",
    "mandarin": "zh",
    "cmn": "zh",
    "english": "en",
    "japanese": "ja",
    "korean": "ko",
    "cantonese": "yue",
    "german": "de",
    "french": "fr",
    "spanish": "es",
    "italian": "it",
    "russian": "ru",
    # one letter each in the clients of one widely used server
    "a": "en",
    "b": "en",
    "z": "zh",
    "j": "ja",
    "e": "es",
    "f": "fr",
    "i": "it",
}
_LISTED_VOICES = 50


@dataclass(frozen=True)
class AudioOutput:
    """What the caller wants back. `sample_rate_hz` as asked for; the encoder says what it became."""

    format_name: str
    sample_rate_hz: int = SAMPLE_RATE_HZ
    stream: bool = True


def language_code(word: str | None) -> str:
    """A language word or tag (`zh`, `ZH`, `zh-CN`, `中文`, `English`) to its code. Raises InvalidRequest."""
    if not word:
        return "auto"
    lowered = word.lower()
    code = _LANGUAGE_WORDS.get(lowered, re.split("[-_]", lowered)[0])
    if code not in LANGUAGES:
        raise InvalidRequest(f"Unknown language {word[:40]!r}. Languages: {', '.join(LANGUAGES)}.", "language")
    return code


def audio_output(format_name: str, sample_rate_hz: int | None, *, stream: bool) -> AudioOutput:
    """A checked output. Raises Unsupported for a format or a rate that is not offered."""
    if format_name not in FORMATS:
        raise Unsupported(
            f"Unknown response_format {format_name[:40]!r}. Formats: {', '.join(FORMATS)}.", "response_format"
        )
    rate_hz = SAMPLE_RATE_HZ if sample_rate_hz is None else sample_rate_hz
    check_sample_rate(format_name, rate_hz)
    return AudioOutput(format_name, rate_hz, stream)


def check_text_length(text: str, field: str, settings: Settings) -> None:
    """Raises TextTooLong over the configured number of characters."""
    limit = settings.frontend.max_text_chars
    if limit and len(text) > limit:
        raise TextTooLong(f"{field} has {len(text)} characters; the limit is {limit}.", field)


def check_recording_size(recording: bytes, field: str, settings: Settings) -> None:
    """Raises RequestTooLarge over the configured number of megabytes."""
    limit_mb = settings.frontend.max_upload_mb
    if len(recording) > limit_mb * 2**20:
        raise RequestTooLarge(f"{field} is larger than {limit_mb} MB.", field)


def check_voice(name: str, engine: SpeechEngine, field: str = "voice") -> None:
    """Raises UnknownVoice with the list of those there are."""
    names = engine.voices.names()
    if name not in names:
        listed = ", ".join(names[:_LISTED_VOICES]) or "none is registered"
        more = ", ..." if len(names) > _LISTED_VOICES else ""
        raise UnknownVoice(f"Unknown voice {name[:80]!r}. Voices: {listed}{more}.", field)


def default_voice(engine: SpeechEngine, settings: Settings, text: str | None, language: str) -> str:
    """The voice of requests that name none: the configured one, the only one, or the model's own of that language.

    Raises UnknownVoice when there is none to choose.
    """
    if settings.server.default_voice is not None:
        return settings.server.default_voice
    names = engine.voices.names()
    return names[0] if len(names) == 1 else engine.voices.default_for(text or "", language)


def aliased_voice(engine: SpeechEngine, settings: Settings, text: str | None, language: str) -> str:
    """The voice behind a name that must always resolve: the default one, else any.

    Raises UnknownVoice when no voice is registered at all.
    """
    try:
        return default_voice(engine, settings, text, language)
    except UnknownVoice:
        names = engine.voices.names()
        if not names:
            raise
        return names[0]


def named_voice(
    name: str, prompt_text: str | None, engine: SpeechEngine, field: str = "voice"
) -> str | RegisteredVoice:
    """A registered voice; with a transcript of its own if the request brings one. Raises UnknownVoice."""
    check_voice(name, engine, field)
    return RegisteredVoice(name, prompt_text) if prompt_text else name


def recorded_voice(recording: bytes, prompt_text: str | None, field: str, settings: Settings) -> ReferenceAudio:
    """A recording sent along; without a transcript it only colours the voice (cross-lingual)."""
    check_recording_size(recording, field, settings)
    if prompt_text:
        check_text_length(prompt_text, "prompt_text", settings)
    return ReferenceAudio(recording, prompt_text or None)


def voice_label(request: SynthesisRequest) -> str | None:
    """The registered voice of a request, for logs and answers; None for a recording and for the model's own choice."""
    voice = request.voice
    if isinstance(voice, RegisteredVoice):
        return voice.name
    return voice if isinstance(voice, str) else None
