"""The voices of the engine's process, as a front end knows them: a list that the engine sends whenever it changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from light_tts.frontdoor.messages import AddVoice, RemoveVoice, RereadVoices, VoiceInfo, VoiceList
from light_tts.frontend.voice_choice import default_voice_name, no_builtin_voice, unknown_voice

Ask = Callable[..., Any]


class RemoteVoices:
    """A `VoiceRegistry`. Looking up asks the engine only after another program has changed the voices' directory.

    ask:  a kind of record and its values to the engine's answer; raises the engine's error.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._list = VoiceList()
        self._by_name: dict[str, VoiceInfo] = {}

    @property
    def directory(self) -> Path | None:
        """See VoiceRegistry."""
        return None if self._list.directory is None else Path(self._list.directory)

    def take(self, voices: VoiceList) -> None:
        """The engine's list has come."""
        self._by_name = {voice.id: voice for voice in voices.voices}
        self._list = voices

    def names(self) -> list[str]:
        """See VoiceRegistry."""
        return list(self._current())

    def get(self, name: str) -> VoiceInfo:
        """See VoiceRegistry."""
        voices = self._current()
        if name not in voices:
            raise unknown_voice(name, list(voices))
        return voices[name]

    def add(
        self,
        name: str,
        data: bytes,
        prompt_text: str | None = None,
        language: str | None = None,
        consent: str | None = None,
    ) -> VoiceInfo:
        """See VoiceRegistry."""
        self._ask(AddVoice, name, data, prompt_text, language, consent)
        return self._by_name[name]

    def remove(self, name: str) -> None:
        """See VoiceRegistry."""
        self._ask(RemoveVoice, name)

    def added_at_s(self, name: str) -> float | None:
        """See VoiceRegistry."""
        voice = self._by_name.get(name)
        return None if voice is None else voice.added_at_s

    def default_for(self, text: str, language: str = "auto") -> str:
        """See VoiceRegistry."""
        builtin = {name: voice.language for name, voice in self._by_name.items() if voice.added_at_s is None}
        chosen = default_voice_name(builtin, text, language)
        if chosen is None:
            raise no_builtin_voice(self.names())
        return chosen

    def _current(self) -> dict[str, VoiceInfo]:
        directory = self._list.directory
        if directory is not None and modified_ns(directory) != self._list.modified_ns:
            self._ask(RereadVoices)
        return self._by_name


def modified_ns(directory: str | Path) -> int:
    """When files were last added, replaced or removed there; 0 while there is no such directory."""
    try:
        return os.stat(directory).st_mtime_ns
    except OSError:
        return 0
