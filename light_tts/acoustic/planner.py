"""Who is served next: a pure function over plain data. Imports no torch and reads no clock.

Order (design: playback deadlines first): streams about to run dry, streams that have not been heard yet (oldest first),
started streams by slack, buffered requests last unless they have waited too long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

UNDERRUN_RESERVE_S = 0.3  # a stream with less unplayed audio than this goes before first chunks of others
BUFFERED_MAX_WAIT_S = 2.0  # a buffered request that waited this long counts as a first chunk


@dataclass(frozen=True)
class Candidate:
    """One runnable hop, as the planner sees it.

    key:          the caller's handle.
    waiting_s:    how long the run has been without service.
    unplayed_s:   audio sent but not yet played; None before the first audio.
    is_buffered:  nobody listens until the end (not streamed).
    """

    key: int
    waiting_s: float
    unplayed_s: float | None
    is_buffered: bool = False


def choose(candidates: Sequence[Candidate], max_batch: int) -> list[int]:
    """Keys of the hops to run together now, most urgent first, at most `max_batch` of them."""
    return [candidate.key for candidate in sorted(candidates, key=_urgency)[:max_batch]]


def _urgency(candidate: Candidate) -> tuple[int, float, int]:
    """Sort key: (class, order inside the class, tie-break)."""
    if candidate.is_buffered:
        overdue = candidate.waiting_s >= BUFFERED_MAX_WAIT_S
        return (1 if overdue else 3, -candidate.waiting_s, candidate.key)
    if candidate.unplayed_s is None:
        return (1, -candidate.waiting_s, candidate.key)
    if candidate.unplayed_s < UNDERRUN_RESERVE_S:
        return (0, candidate.unplayed_s, candidate.key)
    return (2, candidate.unplayed_s, candidate.key)
