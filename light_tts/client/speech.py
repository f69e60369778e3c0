"""What clients say and hear: the options of a request, pieces of audio with their times, voices."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

AUDIO_FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")


@dataclass(frozen=True)
class AudioPiece:
    """Some bytes of the audio, as they arrived.

    data:       the next bytes of the file, or samples when the format is pcm.
    arrived_s:  seconds since the request was sent.
    """

    data: bytes
    arrived_s: float


@dataclass(frozen=True)
class ShortSpeech:
    """A short text, spoken.

    data:       the whole file.
    is_cached:  True when the server had it ready, None when it did not say.
    total_s:    seconds since the request was sent.
    """

    data: bytes
    is_cached: bool | None
    total_s: float


@dataclass(frozen=True)
class VoiceInfo:
    """A voice of the server. kind: "preset" or "audio_sample"; created_at: Unix time."""

    name: str
    language: str | None = None
    kind: str | None = None
    created_at: int | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> VoiceInfo:
        """A voice object of `/v1/audio/voices`."""
        return cls(str(values["id"]), values.get("language"), values.get("type"), values.get("created_at"))


class SpeechOptions(TypedDict, total=False):
    """What a request may say besides text and voice; what is left out is for the server to choose.

    response_format:  mp3, opus, aac, flac, wav or pcm (16-bit mono).
    speed:            0.25 to 4.0.
    instructions:     how to speak.
    language:         hint for reading numbers and the like: "zh", "en" ...
    ref_audio:        a recording whose voice to take for this request alone; ref_text: what is said in it.
    extra:            further fields of the body.
    """

    model: str
    response_format: str
    speed: float
    instructions: str
    language: str
    sample_rate: int
    seed: int
    ref_audio: bytes
    ref_text: str
    extra: Mapping[str, Any]


def speech_body(text: str, voice: str | None, options: SpeechOptions, *, stream: bool) -> dict[str, Any]:
    """The JSON of `/v1/audio/speech`."""
    body: dict[str, Any] = {"input": text, "response_format": "wav", "stream": stream}
    if voice is not None:
        body["voice"] = voice
    body |= {name: value for name, value in options.items() if name not in ("ref_audio", "extra") and value is not None}
    recording = options.get("ref_audio")
    if recording is not None:
        body["ref_audio"] = base64.b64encode(recording).decode("ascii")
    return {**body, **options.get("extra", {})}
