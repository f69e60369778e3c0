"""When a run may rest because its speech is far ahead of whoever hears it. Pure.

A language model makes speech many times faster than it is heard. Steps of few sequences cost as much as steps of many,
so runs that race ahead one after the other take the GPU from the flow; runs that rest and go on together do not.
"""

from __future__ import annotations

from dataclasses import dataclass

from light_tts.types import TOKEN_RATE_HZ


@dataclass(frozen=True)
class LeadLimit:
    """A run rests when its lead exceeds the limit, until half of that is left; then all that rest go on together.

    The lead is counted as if the first code were heard at once, so it is never overestimated.

    max_lead_s:  of speech; 0: nobody rests.

    Of a run, below: the codes it has made, and when it made the first.
    """

    max_lead_s: float

    def is_exceeded(self, num_codes: int, first_code_s: float | None, now_s: float) -> bool:
        """True when the run may rest."""
        return first_code_s is not None and 0.0 < self.max_lead_s < self._heard_s(num_codes, first_code_s) - now_s

    def goes_on_at(self, num_codes: int, first_code_s: float | None) -> float:
        """The moment at which the run, when it rests, must go on."""
        return 0.0 if first_code_s is None else self._heard_s(num_codes, first_code_s) - self.max_lead_s / 2.0

    def _heard_s(self, num_codes: int, first_code_s: float) -> float:
        """When all of it will have been heard."""
        return first_code_s + num_codes / TOKEN_RATE_HZ
