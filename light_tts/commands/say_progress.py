"""What `light-tts say` tells on standard error: a live line on a terminal, one summary line in the end."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console

from light_tts.types import SAMPLE_RATE_HZ, RequestStats


class SayProgress:
    """A live line while the model loads and speaks; nothing live where standard error is no terminal."""

    def __init__(self, started_s: float, *, quiet: bool = False) -> None:
        self._started_s = started_s
        self._quiet = quiet
        self._samples = 0
        self._ready_s = 0.0
        self._first_audio_s: float | None = None
        console = Console(stderr=True)
        is_live = console.is_terminal and not quiet
        self._status = console.status("loading the model") if is_live else None

    def __enter__(self) -> SayProgress:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def loaded(self) -> None:
        """The model is ready."""
        self._ready_s = time.monotonic()
        self._show("speaking")

    def spoke(self, num_samples: int) -> None:
        """So many samples more have left."""
        if num_samples and self._first_audio_s is None:
            self._first_audio_s = time.monotonic() - self._started_s
        self._samples += num_samples
        audio_s = self._samples / SAMPLE_RATE_HZ
        if audio_s:
            rtf = (time.monotonic() - self._ready_s) / audio_s
            self._show(f"speaking  {audio_s:.1f} s  first audio after {self._first_audio_s:.2f} s  RTF {rtf:.2f}")

    def summary(self, where: str, stats: RequestStats) -> None:
        """The one line that stays."""
        if self._quiet:
            return
        if self._status:
            self._status.stop()
        words = [f"{where}: {stats.audio_s:.2f} s of speech"]
        if self._first_audio_s is not None:
            load_s = self._ready_s - self._started_s
            words.append(f"first audio after {self._first_audio_s:.2f} s (of these {load_s:.2f} s loading)")
        if stats.rtf is not None:
            words.append(f"RTF {stats.rtf:.2f}")
        print(", ".join(words), file=sys.stderr)

    def _show(self, text: str) -> None:
        if self._status:
            self._status.update(text)
