"""What the server asks of a speech engine, whether it runs in this process or in another.

`TTSEngine` is one, `light_tts.frontdoor.remote_engine.RemoteEngine` the other; `server/` never asks which it has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from light_tts.audio_stream import AudioStream
from light_tts.text_stream import TextStream
from light_tts.types import SynthesisRequest


class VoiceFacts(Protocol):
    """What can be said of a voice without its tensors. A `Voice` says it too."""

    @property
    def id(self) -> str:
        """Its registered name."""

    @property
    def prompt_text(self) -> str | None:
        """Transcript of its recording; None when unknown, or kept only as text ids."""

    @property
    def language(self) -> str | None:
        """A code such as "en", or None."""

    @property
    def has_prompt(self) -> bool:
        """True when it has reference speech, False when it is a speaker vector only."""

    @property
    def has_transcript(self) -> bool:
        """True when the words of its recording are known."""


class VoiceRegistry(Protocol):
    """Voices by name. Looking up is quick; adding and removing block, so an event loop calls them on a thread."""

    @property
    def directory(self) -> Path | None:
        """Where other programs add and remove voices too; None: nowhere."""

    def names(self) -> list[str]:
        """Names of all voices: built-in ones first, then added ones by name."""

    def get(self, name: str) -> VoiceFacts:
        """The voice of that name. Raises UnknownVoice."""

    def add(
        self,
        name: str,
        data: bytes,
        prompt_text: str | None = None,
        language: str | None = None,
        consent: str | None = None,
    ) -> VoiceFacts:
        """Make a voice of a recording and keep it. Raises InvalidRequest, BadAudio, ConfigError."""

    def remove(self, name: str) -> None:
        """Forget an added voice. Raises UnknownVoice, or InvalidRequest for a built-in one."""

    def added_at_s(self, name: str) -> float | None:
        """Unix time at which an added voice was written; None for built-in ones and unknown names."""

    def default_for(self, text: str, language: str = "auto") -> str:
        """Name of the built-in voice for a text, or for a language. Raises UnknownVoice when there are none."""


class SpeechEngine(Protocol):
    """One loaded model behind whatever separates it from the caller. Safe from any thread.

    Requests never block. What is wrong with one is raised at once where that is known at once, else by its stream.
    """

    @property
    def model_name(self) -> str:
        """Name of the model directory."""

    @property
    def model_names(self) -> list[str]:
        """Language-model styles; the first is the default."""

    @property
    def is_ready(self) -> bool:
        """True while requests can be served. Quick."""

    @property
    def voices(self) -> VoiceRegistry:
        """The registered voices."""

    def health(self) -> dict[str, Any]:
        """A snapshot for health pages. May take a round trip to the engine; an event loop calls it on a thread."""

    def gpu_memory(self) -> dict[str, Any] | None:
        """Bytes used on the device; None on CPU. May take a round trip to the engine, as `health`."""

    def submit(self, request: SynthesisRequest) -> AudioStream:
        """Start a request."""

    def open_text_stream(self, request: SynthesisRequest) -> TextStream:
        """Start a request whose text arrives piece by piece."""

    def convert(self, source: bytes, request: SynthesisRequest) -> AudioStream:
        """Speak the words of a recording with the request's voice."""
