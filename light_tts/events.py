"""What happens inside the engine, told as it happens: the seam between the stages and whoever counts.

The stages know neither metrics nor logs; the server passes a listener that feeds both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class LLMStep:
    """One step of a language model.

    rows:       positions computed, of prompts and of decoding sequences.
    sequences:  that took part.
    """

    seconds: float
    sequences: int
    rows: int


@dataclass(frozen=True)
class AcousticCall:
    """One call of flow and vocoder.

    hops:        streams that were served together.
    flow_steps:  Euler steps, of the hop with the most.
    audio_s:     speech made.
    """

    flow_s: float
    vocoder_s: float
    hops: int
    flow_steps: int
    audio_s: float


class EngineEvents(Protocol):
    """A listener. Called on the engine's threads, between two steps: it must be quick and must not raise."""

    def llm_step(self, step: LLMStep) -> None:
        """A language model computed a step."""

    def acoustic_call(self, call: AcousticCall) -> None:
        """Flow and vocoder served a batch of hops."""

    def stage_restarted(self, stage: str) -> None:
        """A stage's thread had died and works again."""

    def request_retried(self) -> None:
        """A request that had sent nothing was begun again after its stage had died."""


class NoEvents:
    """Listens to nothing."""

    def llm_step(self, step: LLMStep) -> None:
        """Nothing."""

    def acoustic_call(self, call: AcousticCall) -> None:
        """Nothing."""

    def stage_restarted(self, stage: str) -> None:
        """Nothing."""

    def request_retried(self) -> None:
        """Nothing."""


NO_EVENTS = NoEvents()


class StartProgress(Protocol):
    """A listener while an engine starts. Called on the thread that records, one part after the other."""

    def compiled(self, what: str, done: int, total: int) -> None:
        """So many of the kernels of a stage have been compiled."""

    def recorded(self, what: str, done: int, total: int) -> None:
        """So many of the calls of a stage have been recorded."""

    def close(self) -> None:
        """The start has ended, well or not."""


class NoProgress:
    """Listens to nothing."""

    def compiled(self, what: str, done: int, total: int) -> None:
        """Nothing."""

    def recorded(self, what: str, done: int, total: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


NO_PROGRESS = NoProgress()
