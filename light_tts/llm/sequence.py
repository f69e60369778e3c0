"""One run in the engine: its layout, its pages, how far it has been computed. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from light_tts.llm.block_manager import chain_keys
from light_tts.llm.layout import Layout
from light_tts.llm.silence import SilenceFilter
from light_tts.types import TokenSink


class SequenceState(Enum):
    """Where a sequence stands with the scheduler."""

    ARRIVED = auto()  # the scheduler has not seen it yet
    WAITING = auto()  # for a place in the batch; may hold pages
    RUNNING = auto()  # has a place in the batch and pages
    PARKED = auto()  # nothing to compute until more text arrives; holds pages while they last
    FINISHED = auto()  # holds nothing


@dataclass(frozen=True)
class RowSampling:
    """Sampling values of one run, all decided."""

    top_p: float
    top_k: int
    temperature: float = 1.0
    greedy: bool = False


@dataclass(eq=False)
class Sequence:
    """The engine's thread owns it; other threads hold it only to name it in a command.

    arrival:       place in the order of arrival; the older one wins.
    key:           of its random numbers (`random.run_key`).
    blocks:        its pages, in the order of its rows.
    num_computed:  rows whose keys and values are in those pages.
    last_step:     step of the engine in which rows of it were computed last.
    busy_s:        its share of the time of the steps it took part in.
    """

    arrival: int
    layout: Layout
    sampling: RowSampling
    key: int
    sink: TokenSink
    silence: SilenceFilter
    state: SequenceState = SequenceState.ARRIVED
    blocks: list[int] = field(default_factory=list)
    num_computed: int = 0
    last_step: int = -1
    busy_s: float = 0.0
    _block_keys: list[bytes] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """Rows known so far."""
        return len(self.layout.rows)

    @property
    def num_runnable(self) -> int:
        """Rows that may be computed now.

        The last row waits until a sample is wanted at it: its logits exist only in the step that computes it.
        """
        return self.num_rows if self.layout.wants_sample else self.num_rows - 1

    @property
    def num_pending(self) -> int:
        """Rows that may be computed now and are not."""
        return self.num_runnable - self.num_computed

    @property
    def is_finished(self) -> bool:
        """True when the sequence has left the engine."""
        return self.state is SequenceState.FINISHED

    def shareable_keys(self, block_tokens: int) -> list[bytes]:
        """Keys of the full pages of the beginning it may have in common with other runs."""
        start = len(self._block_keys) * block_tokens
        if self.layout.num_shareable - start >= block_tokens:
            previous = self._block_keys[-1] if self._block_keys else b""
            rows = self.layout.rows[start : self.layout.num_shareable]
            self._block_keys.extend(chain_keys(rows, block_tokens, previous))
        return self._block_keys
