"""One run in the engine: its layout, its pages, how far it has been computed. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from light_tts.llm.block_manager import chain_keys
from light_tts.llm.layout import Layout
from light_tts.llm.lead_limit import LeadLimit
from light_tts.llm.silence import SilenceFilter
from light_tts.types import TokenSink


class SequenceState(Enum):
    """Where a sequence stands with the scheduler."""

    ARRIVED = auto()  # the scheduler has not seen it yet
    WAITING = auto()  # for a place in the batch; may hold pages
    RUNNING = auto()  # has a place in the batch and pages
    RESTING = auto()  # has spoken far ahead of its listener; holds pages while they last
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
    is_live:       somebody hears its speech as it is made.
    first_code_s:  when its first code was handed over.
    runs_ahead:    a row may be computed for a code before the code is known.
    num_sure_rows: below so many computed rows, one is pending whenever a sample is on its way (`Layout.num_sure_rows`).
    num_drawing:   samples of it that are on their way, 0 to 2: their steps have begun, and nobody has seen them.
    void_start:    place of a row computed for a code that then was none; -1: there is no such row on its way.
    is_grouped:    a member of the scheduler's `DecodingGroup`.
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
    is_live: bool = False
    first_code_s: float | None = None
    runs_ahead: bool = False
    num_sure_rows: int = 0
    num_drawing: int = 0
    void_start: int = -1
    is_grouped: bool = False
    _block_keys: list[bytes] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """Rows known so far."""
        return self.layout.num_rows

    @property
    def num_runnable(self) -> int:
        """Rows that may be computed now.

        The last row waits until a sample is wanted at it: its logits exist only in the step that computes it. While a
        sample is on its way, the row after the last is the code it will be, if all goes on as it mostly does.
        """
        layout = self.layout
        if self.num_drawing:
            goes_on = self.runs_ahead and self.void_start < 0 and layout.continues_with_code
            return layout.num_rows + 1 if goes_on else self.num_computed
        return layout.num_rows if layout.wants_sample else layout.num_rows - 1

    @property
    def num_pending(self) -> int:
        """Rows that may be computed now and are not; never negative while it runs."""
        return self.num_runnable - self.num_computed

    def may_rest(self, limit: LeadLimit, now_s: float) -> bool:
        """True when somebody hears it who is far behind."""
        return self.is_live and limit.is_exceeded(len(self.layout.history), self.first_code_s, now_s)

    def goes_on_at(self, limit: LeadLimit) -> float:
        """The moment until which it may rest."""
        return limit.goes_on_at(len(self.layout.history), self.first_code_s)

    def take_back(self, start: int) -> None:
        """The row at `start` is no code: if one was launched for it, it counts as never computed."""
        if self.num_drawing:
            self.num_computed = min(self.num_computed, start)
            self.void_start = start

    def arrive(self, start: int, is_ahead: bool) -> bool:
        """The sample after the chunk from `start` has come; False when the row it was drawn after is void."""
        self.num_drawing -= 1
        if is_ahead and start == self.void_start:
            self.void_start = -1
            return False
        return True

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
