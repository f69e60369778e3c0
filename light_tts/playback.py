"""Sound out of this machine's speakers, through a player program that is already there.

Some players take samples from a pipe and start at once; the others (and Windows) get a finished file.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from light_tts.audio_output import to_int16
from light_tts.types import SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Player:
    """A program that plays 16-bit mono samples at 24 kHz.

    command:     its words; "{file}" stands for the file to play.
    takes_pipe:  it plays headerless samples from its standard input while they come.
    """

    name: str
    command: tuple[str, ...]
    takes_pipe: bool


_RATE = str(SAMPLE_RATE_HZ)
PLAYERS = (
    Player("aplay", ("aplay", "-q", "-t", "raw", "-f", "S16_LE", "-r", _RATE, "-c", "1", "-"), True),
    Player("paplay", ("paplay", "--raw", "--format=s16le", f"--rate={_RATE}", "--channels=1"), True),
    Player("pw-play", ("pw-play", "{file}"), False),
    Player("afplay", ("afplay", "{file}"), False),
    Player("ffplay", ("ffplay", "-nodisp", "-autoexit", "-loglevel", "error", "{file}"), False),
)
WINSOUND = Player(
    "winsound",
    (sys.executable, "-c", "import sys, winsound; winsound.PlaySound(sys.argv[1], winsound.SND_FILENAME)", "{file}"),
    False,
)


def find_player() -> Player | None:
    """The first player of this machine, or None."""
    if sys.platform == "win32":
        return WINSOUND
    return next((player for player in PLAYERS if shutil.which(player.command[0])), None)


class Playback:
    """One sound being played. The samples stay at hand, for a file in case nothing could be heard."""

    def __init__(self, player: Player) -> None:
        self.player_name = player.name
        self._command = player.command
        self._pcm = bytearray()
        self._process: subprocess.Popen[bytes] | None = None
        if player.takes_pipe:
            self._process = subprocess.Popen(player.command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def write(self, samples: np.ndarray) -> None:
        """Play on, [N] float32; waits while the player has enough."""
        pcm = to_int16(samples).tobytes()
        self._pcm += pcm
        if self._process is not None and self._process.stdin is not None:
            # A player that has died is no reason to stop: `finish` tells.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(pcm)
                self._process.stdin.flush()

    def finish(self) -> bool:
        """Wait for the end of the sound; False when the player failed (often: no sound card)."""
        if self._process is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate()
            return self._process.wait() == 0
        with tempfile.TemporaryDirectory(prefix="light-tts-") as folder:
            path = Path(folder) / "speech.wav"
            self.save(path)
            words = [word.replace("{file}", str(path)) for word in self._command]
            return subprocess.run(words, stderr=subprocess.DEVNULL, check=False).returncode == 0

    def stop(self) -> None:
        """Fall silent now."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate()

    def save(self, path: Path) -> None:
        """Write what was to be heard as a WAV file, mono, 16 bit, 24 kHz."""
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE_HZ)
            file.writeframes(bytes(self._pcm))
