"""Which runs may rest because their speech is far ahead of whoever hears it. Pure.

A language model makes speech many times faster than it is heard. Steps of few sequences cost as much as steps of many,
so runs that race ahead one after the other take the GPU from the flow; runs that rest and go on together do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from light_tts.llm.sequence import Sequence
from light_tts.types import TOKEN_RATE_HZ


@dataclass(frozen=True)
class LeadLimit:
    """A run rests when its lead exceeds the limit, until half of that is left.

    The lead is counted as if the first code were heard at once, so it is never overestimated.

    max_lead_s:  of speech; 0: nobody rests.
    """

    max_lead_s: float

    def is_exceeded(self, run: Sequence, now_s: float) -> bool:
        """True when a live run may rest."""
        return run.is_live and 0.0 < self.max_lead_s < self._lead_s(run, now_s)

    def goes_on_at(self, run: Sequence) -> float:
        """The moment at which a resting run must go on."""
        return self._lead_s(run, 0.0) - self.max_lead_s / 2.0

    def next_s(self, resting: Iterable[Sequence]) -> float | None:
        """The moment at which the first of the resting runs must go on; None when nobody rests."""
        return min(map(self.goes_on_at, resting), default=None)

    def _lead_s(self, run: Sequence, now_s: float) -> float:
        if run.first_code_s is None:
            return 0.0
        return len(run.layout.history) / TOKEN_RATE_HZ - (now_s - run.first_code_s)
