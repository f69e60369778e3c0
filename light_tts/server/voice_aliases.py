"""The voice names of the OpenAI surface that are no voices themselves: cloud names and configured ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from light_tts.errors import UnknownVoice
from light_tts.server.speech_fields import aliased_voice, check_voice, default_voice

if TYPE_CHECKING:
    from light_tts.settings import Settings
    from light_tts.speech_engine import SpeechEngine

# Some clients offer or accept no other names.
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
DEFAULT = "default"


class VoiceAliases:
    """Names to voices, in this order: a registered voice, a configured alias, a cloud name for the default voice."""

    def __init__(self, engine: SpeechEngine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._registered = engine.voices.names()
        self._configured = dict(pair.split("=", 1) for pair in settings.server.voice_aliases)

    def names(self) -> list[str]:
        """Every alias that can be spoken with and that no registered voice goes by."""
        if not self._registered:
            return []
        names = dict.fromkeys((*CLOUD_VOICES, *self._configured))
        return [
            name
            for name in names
            if name not in self._registered and self._configured.get(name, self._registered[0]) in self._registered
        ]

    def means_default(self, name: str | None) -> bool:
        """True when this name says nothing about which voice is wanted."""
        is_placeholder = name is None or name == DEFAULT or name in CLOUD_VOICES
        return is_placeholder and name not in self._configured and name not in self._registered

    def resolve(self, name: str | None, text: str, language: str) -> str:
        """The registered voice behind a name; None and "default" mean the default voice for that text and language.

        Raises UnknownVoice with the list of those there are.
        """
        if name in self._registered:
            return name
        if name in self._configured:
            return self._target(name)
        if name in CLOUD_VOICES:
            return aliased_voice(self._engine, self._settings, text, language)
        if name is not None and name != DEFAULT:
            check_voice(name, self._engine)
        return default_voice(self._engine, self._settings, text, language)

    def _target(self, name: str) -> str:
        target = self._configured[name]
        if target not in self._registered:
            raise UnknownVoice(
                f"The voice name {name[:80]!r} is configured to mean {target[:80]!r}, which is not registered.", "voice"
            )
        return target
