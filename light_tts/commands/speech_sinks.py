"""Where `light-tts say` puts its speech: the speakers, a file, or standard output."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Protocol

import numpy as np

from light_tts.audio_output import encode_complete, open_encoder
from light_tts.errors import InvalidRequest
from light_tts.playback import Playback, find_player

FALLBACK_FILE = Path("speech.wav")


class SpeechSink(Protocol):
    """Takes samples, [N] float32 at 24 kHz, as they come."""

    def write(self, samples: np.ndarray) -> None:
        """The next samples."""

    def finish(self) -> str:
        """The speech is complete; says in a few words where it went."""

    def abort(self) -> None:
        """The speech will not be completed; leave nothing behind."""


def open_sink(output: str | None, audio_format: str) -> SpeechSink:
    """The speakers for None, standard output for "-", else that file.

    Raises InvalidRequest when the file cannot be written.
    """
    if output == "-":
        return _Stdout(audio_format)
    if output is not None:
        return _File(Path(output), audio_format)
    player = find_player()
    return _Speakers(Playback(player)) if player else _File(FALLBACK_FILE, "wav", ": no audio player found, so written")


class _File:
    """A file with a true length in its header; it appears only when it is complete."""

    def __init__(self, path: Path, audio_format: str, why: str = "") -> None:
        if path.is_dir():
            raise InvalidRequest(f"cannot write {path}: it is a directory; name a file", "output")
        # A device or a pipe is written to, never replaced.
        self._is_special = path.exists() and not path.is_file()
        self._path = path
        self._part = path if self._is_special else path.with_name(f".{path.name}.{os.getpid()}.part")
        self._format = audio_format
        self._why = why
        self._pieces: list[np.ndarray] = []
        try:
            if not self._is_special:
                self._part.touch()  # now, not after a minute of synthesis
        except OSError as error:
            raise InvalidRequest(f"cannot write {path}: {error.strerror}", "output") from None

    def write(self, samples: np.ndarray) -> None:
        self._pieces.append(samples)

    def finish(self) -> str:
        samples = np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.float32)
        try:
            self._part.write_bytes(encode_complete(samples, self._format))
            if not self._is_special:
                self._part.replace(self._path)
        except OSError as error:
            self.abort()
            raise InvalidRequest(f"cannot write {self._path}: {error.strerror}", "output") from None
        return f"{self._path}{self._why}"

    def abort(self) -> None:
        if not self._is_special:
            self._part.unlink(missing_ok=True)


class _Stdout:
    """Bytes to standard output as they come."""

    def __init__(self, audio_format: str) -> None:
        self._encoder = open_encoder(audio_format)
        self._out = sys.stdout.buffer

    def write(self, samples: np.ndarray) -> None:
        self._put(self._encoder.encode(samples))

    def finish(self) -> str:
        self._put(self._encoder.finish())
        return "standard output"

    def abort(self) -> None:
        pass

    def _put(self, data: bytes) -> None:
        self._out.write(data)
        self._out.flush()


class _Speakers:
    """The speakers; a file when they turn out not to work."""

    def __init__(self, playback: Playback) -> None:
        self._playback = playback

    def write(self, samples: np.ndarray) -> None:
        self._playback.write(samples)

    def finish(self) -> str:
        if self._playback.finish():
            return "played"
        self._playback.save(FALLBACK_FILE)
        return f"{FALLBACK_FILE}: {self._playback.player_name} could not play, so written"

    def abort(self) -> None:
        self._playback.stop()
