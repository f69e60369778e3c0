"""Voices by name: those that come with the model, and those users add, which survive restarts."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from light_tts.errors import ConfigError, InvalidRequest
from light_tts.frontend.text_units import LANGUAGES
from light_tts.frontend.voice_choice import default_voice_name, no_builtin_voice, unknown_voice
from light_tts.frontend.voice_files import (
    Signature,
    UnreadableVoice,
    delete_voice,
    file_signature,
    names_on_disk,
    read_voice,
    write_voice,
)
from light_tts.types import Voice

logger = logging.getLogger(__name__)

_NAME = re.compile(r"\w[\w.-]{0,63}")
_MAX_NAME_BYTES = 200  # file systems count bytes


def default_voices_dir() -> Path:
    """Where added voices live when no directory is set: the user's data directory."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "light-tts" / "voices"


class VoiceStore:
    """Voices by name. Safe from many threads; several processes may share the directory.

    directory:  of added voices; made at the first `add`.
    builtin:    voices of the model, in order; they cannot be replaced or removed.
    extract:    recording to Voice, for `add`.
    revision:   identifies the models that read recordings; voices added with others are not offered.
    """

    def __init__(
        self, directory: Path, builtin: Mapping[str, Voice], extract: Callable[[bytes], Voice], revision: str = ""
    ) -> None:
        self.directory = directory
        self._builtin = dict(builtin)
        self._extract = extract
        self._revision = revision
        self._lock = threading.RLock()
        self._added: dict[str, Voice] = {}
        self._broken: dict[str, str] = {}  # name -> why its files failed to load
        self._seen: dict[str, Signature] = {}  # name -> state of its files when they were last read or written
        with self._lock:
            self._refresh()

    def names(self) -> list[str]:
        """Names of all voices: built-in ones first, then added ones by name."""
        with self._lock:
            self._refresh()
            return [*self._builtin, *sorted(self._added)]

    def get(self, name: str) -> Voice:
        """The voice of that name. Raises UnknownVoice listing the names there are."""
        with self._lock:
            if name in self._builtin:
                return self._builtin[name]
            if name not in self._added:
                self._refresh()
            if name in self._added:
                return self._added[name]
        raise unknown_voice(name, self.names())

    def added_at_s(self, name: str) -> float | None:
        """Unix time at which an added voice was last written; None for built-in and unknown ones."""
        with self._lock:
            modified_ns = self._seen[name][0] if name in self._added else 0
        return modified_ns / 1e9 or None

    def add(
        self,
        name: str,
        data: bytes,
        prompt_text: str | None = None,
        language: str | None = None,
        consent: str | None = None,
    ) -> Voice:
        """Make a voice of a recording and keep it under `name`; an added voice of that name is replaced.

        prompt_text:  what is said in the recording; without it the voice can only colour the speech.
        language:     of the voice, a code such as "en".
        consent:      what was said about the speaker's consent; kept beside the voice as given.

        Raises InvalidRequest for a name or language that is not allowed, BadAudio for the recording.
        """
        self._check_name(name)
        if language is not None and language not in LANGUAGES - {"auto"}:
            raise InvalidRequest(
                f"Unknown language {language[:40]!r}. Languages: {', '.join(sorted(LANGUAGES - {'auto'}))}.", "language"
            )
        extracted = self._extract(data)
        voice = replace(extracted, id=name, prompt_text=prompt_text or None, language=language)
        self.save(name, voice, consent)
        return voice

    def save(self, name: str, voice: Voice, consent: str | None = None) -> None:
        """Keep an extracted voice under `name`. Raises InvalidRequest for a name that is not allowed."""
        with self._lock:
            self._check_name(name)
            try:
                write_voice(self.directory, name, voice, self._revision, consent)
            except OSError as error:
                raise ConfigError(
                    f"The voice {name!r} cannot be written to {self.directory} ({error.strerror or error}); set "
                    "voices_dir to a directory that can be written."
                ) from error
            self._added[name] = replace(voice, id=name)
            self._seen[name] = file_signature(self.directory, name)

    def remove(self, name: str) -> None:
        """Forget an added voice. Raises UnknownVoice, or InvalidRequest for a built-in one."""
        with self._lock:
            if name in self._builtin:
                raise InvalidRequest(f"The voice {name!r} belongs to the model and cannot be removed.", "voice")
            self.get(name)
            delete_voice(self.directory, name)
            self._refresh()

    def default_for(self, text: str, language: str = "auto") -> str:
        """Name of the built-in voice to use when none is asked for: the first of the text's language.

        language:  "auto" looks at the script. Languages without a voice get the first English one, else the first.
        Raises UnknownVoice when the model has no voices.
        """
        languages = {name: voice.language for name, voice in self._builtin.items()}
        chosen = default_voice_name(languages, text, language)
        if chosen is None:
            raise no_builtin_voice(self.names())
        return chosen

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name) or len(name.encode("utf-8", "replace")) > _MAX_NAME_BYTES:
            raise InvalidRequest(
                f"{name[:80]!r} cannot name a voice; use up to 64 letters, digits, '_', '-' and '.', the first a "
                "letter or digit.",
                "voice",
            )
        with self._lock:
            if name in self._builtin:
                raise InvalidRequest(f"The voice {name!r} belongs to the model and cannot be replaced.", "voice")
            self._refresh()
            if name in self._broken:
                raise InvalidRequest(
                    f"The files of a voice {name!r} are there but cannot be used ({self._broken[name]}); move them "
                    "away first, or choose another name.",
                    "voice",
                )

    def _refresh(self) -> None:
        """Take up what other processes added, replaced or removed."""
        found = {name: file_signature(self.directory, name) for name in names_on_disk(self.directory)}
        for name in set(self._seen) - set(found):
            self._forget(name)
        for name, signature in sorted(found.items()):
            if name in self._builtin or not _NAME.fullmatch(name) or self._seen.get(name) == signature:
                continue
            self._forget(name)
            self._seen[name] = signature
            try:
                self._added[name] = read_voice(self.directory, name, self._revision)
            except UnreadableVoice as error:
                self._broken[name] = str(error)
                logger.warning("skipped voice %r in %s: %s", name, self.directory, error)

    def _forget(self, name: str) -> None:
        self._seen.pop(name, None)
        self._added.pop(name, None)
        self._broken.pop(name, None)
