"""An acoustic call that the device may still be computing: its hops, and what the host will need of it afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from light_tts.acoustic.call_log import LoggedCall
from light_tts.acoustic.chunking import Hop
from light_tts.acoustic.pending_samples import PendingSamples
from light_tts.acoustic.run import AcousticRun, Work
from light_tts.acoustic.stage_timer import StageTimer
from light_tts.gpu_turns import Turn
from light_tts.types import SAMPLE_RATE_HZ

_AFTER_FLOW = 1  # mark of the timer


@dataclass(frozen=True, eq=False)
class CallUnderWay:
    """Made by a lane when it has launched flow and vocoder of some hops.

    work:      hops that were tried.
    spoken:    those that give samples.
    frames:    of the longest.
    start_s:   when the host began with it.
    turn:      of the GPU.
    entry:     in the log of calls.
    """

    work: Work
    spoken: list[tuple[AcousticRun, Hop, PendingSamples]]
    frames: int
    start_s: float
    timer: StageTimer
    turn: Turn
    entry: LoggedCall

    @property
    def is_on_device(self) -> bool:
        """The device computes while the host goes on."""
        return bool(self.spoken) and self.timer.is_apart

    def wait_for_flow(self) -> None:
        """Until only the vocoder is left to be computed."""
        self.timer.wait(_AFTER_FLOW)

    def fetch(self) -> list[torch.Tensor]:
        """Samples of each hop on the host, when all is computed."""
        on_host = [samples.fetch() for _, _, samples in self.spoken]
        self.timer.wait(-1)  # also where every hop failed: what was launched before may still be computing
        return on_host

    def end(self) -> None:
        """All is computed, or never will be."""
        self.turn.end()
        self.entry.end()

    @property
    def audio_s(self) -> float:
        """Seconds of audio that it gives."""
        return sum(samples.num_samples for _, _, samples in self.spoken) / SAMPLE_RATE_HZ
