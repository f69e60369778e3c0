"""Who is served next: a pure function over plain data. Imports no torch and reads no clock.

Order: streams about to run dry (earliest first), streams not heard yet (oldest first), started streams by slack,
buffered requests last unless they have waited too long. A started stream with slack whose hop can still grow waits for
more tokens when others are there: fewer and larger calls for the same audio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from light_tts.acoustic.stage_costs import CostTable

RESERVE_S = 0.1  # audio that shall still be unplayed when the next chunk arrives
BUFFERED_MAX_WAIT_S = 2.0  # a buffered request that waited this long counts as a first chunk
MAX_BLOCK_S = 0.1  # a call without anyone in a hurry shall not keep a newcomer waiting longer, if it can be helped
FREE_RIDE = 1.25  # rows without hurry join an urgent call while it gets no longer than this
COALESCE_S = 0.002  # under load, a first chunk waits this long for company


@dataclass(frozen=True)
class Candidate:
    """One runnable hop, as the planner sees it.

    key:          the caller's handle.
    frames:       mel frames the hop will compute.
    waiting_s:    how long the hop has been runnable; of a run that was never served, how long it has been open.
    due_s:        how long the hop has been runnable.
    unplayed_s:   audio sent but not yet played; None before the first audio.
    can_grow:     a larger hop will be possible when more tokens have come.
    is_buffered:  nobody listens until the end (not streamed).
    """

    key: int
    frames: int
    waiting_s: float
    unplayed_s: float | None
    due_s: float = 0.0
    can_grow: bool = False
    is_buffered: bool = False


@dataclass(frozen=True)
class Plan:
    """What to run now, most urgent first, and when to look again if nothing else happens before."""

    keys: tuple[int, ...]
    recheck_s: float | None = None


def plan(candidates: Sequence[Candidate], costs: CostTable, *, max_batch: int, num_streams: int) -> Plan:
    """Choose the hops that run together now.

    costs:        what calls have cost.
    max_batch:    most hops of one call.
    num_streams:  all streams that are open, runnable or not.
    """
    is_crowded = num_streams > 1
    ready: list[Candidate] = []
    recheck_s: float | None = None
    for candidate in candidates:
        wait_s = _wait_s(candidate, costs, is_crowded)
        if wait_s > 0.0:
            recheck_s = wait_s if recheck_s is None else min(recheck_s, wait_s)
        else:
            ready.append(candidate)
    ready.sort(key=lambda candidate: _urgency(candidate, costs))
    return Plan(_batch(ready, costs, max_batch), recheck_s)


def slack_s(candidate: Candidate, costs: CostTable) -> float:
    """Seconds that a started stream's hop can wait without its listener noticing."""
    assert candidate.unplayed_s is not None
    return candidate.unplayed_s - costs.estimate_s(1, candidate.frames) - RESERVE_S


def _wait_s(candidate: Candidate, costs: CostTable, is_crowded: bool) -> float:
    """How long this hop had better wait; 0 when it should run."""
    if not is_crowded or candidate.is_buffered:
        return 0.0
    if candidate.unplayed_s is None:
        return max(0.0, COALESCE_S - candidate.due_s)
    return max(0.0, slack_s(candidate, costs)) if candidate.can_grow else 0.0


def _urgency(candidate: Candidate, costs: CostTable) -> tuple[int, float, int]:
    """Sort key: (class, order inside the class, tie-break)."""
    if candidate.is_buffered:
        overdue = candidate.waiting_s >= BUFFERED_MAX_WAIT_S
        return (1 if overdue else 3, -candidate.waiting_s, candidate.key)
    if candidate.unplayed_s is None:
        return (1, -candidate.waiting_s, candidate.key)
    slack = slack_s(candidate, costs)
    return (0 if slack <= 0.0 else 2, slack, candidate.key)


def _batch(ready: Sequence[Candidate], costs: CostTable, max_batch: int) -> tuple[int, ...]:
    """The head of the queue, as long as waiting for each other pays."""
    if not ready:
        return ()
    hurried = [candidate for candidate in ready if _urgency(candidate, costs)[0] < 2][:max_batch]
    chosen = hurried or [ready[0]]
    frames = max(candidate.frames for candidate in chosen)
    limit_s = FREE_RIDE * costs.estimate_s(len(chosen), frames)
    if not hurried:
        limit_s = max(limit_s, MAX_BLOCK_S)
    for candidate in ready:
        if len(chosen) >= max_batch:
            break
        if candidate in chosen:
            continue
        longest = max(frames, candidate.frames)
        if costs.estimate_s(len(chosen) + 1, longest) <= limit_s:
            chosen.append(candidate)
            frames = longest
    return tuple(candidate.key for candidate in chosen)
