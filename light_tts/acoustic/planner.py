"""Who is served next, and how much of it: a pure function over plain data. Imports no torch and reads no clock.

Order: started streams that would run dry if they were left (earliest first), streams not heard yet (oldest first),
started streams by what is left to play, buffered requests. Age moves everything forward, so that nothing starves.

A started stream is left alone as long as *all* started streams, served back to back by their deadlines, would still be
in time: until then its hop grows, which means fewer calls for the same audio. How many hops share a call follows from
what calls cost (`call_shape.py`): where rows are nearly free, many; where a call of two takes twice as long, one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from light_tts.acoustic.call_shape import calmest, demand, fullest, roomiest, shapes, shortest
from light_tts.acoustic.candidate import Candidate, Pick
from light_tts.acoustic.stage_costs import CostTable
from light_tts.types import FRAMES_PER_TOKEN, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

RESERVE_S = 0.3  # first chunks go before the streams that have more than this unplayed (spec: server, 6.3)
MARGIN_S = 0.05  # a deadline is met when this much is still unplayed: threads, sockets and estimates are not exact
FIRST_MAX_WAIT_S = 1.0  # who waited longer for first audio competes with the streams that run dry
MAX_BLOCK_S = 0.1  # a call without anyone in a hurry shall not keep a newcomer waiting longer, if it can be helped
FREE_RIDE = 1.25  # others join an urgent call while it gets no longer than this
OLDEST_PART = 16  # of the buffered requests, one in so many is served for its age alone
COMPANY_S = 0.2  # so long a started stream that has time waits for somebody's first audio, to share a call with it,
COMPANY_GAIN = 0.75  # where that takes at most this part of the time of two calls
MIN_COALESCE_S, MAX_COALESCE_S = 0.001, 0.003  # under load a first chunk waits for company: a tenth of its call
WITHHELD_FRAMES = 8  # of the first hop, that the vocoder keeps for the next one
MAX_FIRST_HOP_GROWTH = 3  # chunks by which load may lengthen the first hop


_deadline = attrgetter("unplayed_s", "key")  # of candidates that are started


@dataclass(frozen=True)
class Plan:
    """What to run now in one call, most urgent first, and when to look again if nothing else happens before."""

    picks: tuple[Pick, ...]
    recheck_s: float | None = None

    @property
    def keys(self) -> tuple[int, ...]:
        """Of the hops to run."""
        return tuple(pick.key for pick in self.picks)


def plan(
    candidates: Sequence[Candidate],
    costs: CostTable,
    *,
    max_batch: int,
    num_unheard: int = 0,
    num_playing: int = 0,
    next_dry_s: float = math.inf,
    is_idle: bool = True,
) -> Plan:
    """Choose the hops that run together now. When there are candidates, something runs or `recheck_s` is given.

    costs:        what calls have cost.
    max_batch:    most hops of one call.
    num_unheard:  streams that still wait for first audio, runnable or not.
    num_playing:  started streams that are not among the candidates, and not at their end.
    next_dry_s:   when the first of the listeners runs dry whose streams are not among the candidates.
    is_idle:      nothing is being computed; otherwise first chunks have waited for each other long enough.
    """
    if not candidates:
        return Plan(())
    started = sorted((each for each in candidates if each.is_started), key=_deadline)
    new = sorted((each for each in candidates if not each.is_started), key=lambda each: (-each.age_s, each.key))
    firsts = [each for each in new if each.age_s >= 0.0]
    patient = [each for each in new if each.age_s < 0.0]
    if all(each.is_buffered for each in candidates) and not num_unheard and not num_playing:
        return Plan(_serve_buffered(new, costs, max_batch))
    wanted = demand(started, num_playing + len(started), costs)
    slacks = slacks_s(started, costs, max_batch)
    guard_s = RESERVE_S - MARGIN_S
    if firsts:
        guard_s = max(guard_s, _best_call_s(firsts, costs, max_batch)[1])
    num_hurried = max((count for count, slack_s in enumerate(slacks, 1) if slack_s < guard_s), default=0)
    if num_hurried:
        return _serve_hurried(started, num_hurried, firsts, wanted, costs, max_batch)
    spare = min([next_dry_s - MARGIN_S, *slacks])
    wait_s = _coalescing_wait_s(firsts, costs, num_unheard) if is_idle else 0.0
    if firsts and wait_s <= 0.0:
        return _serve_firsts(firsts, started, spare, wanted, costs, max_batch)
    if not patient and num_unheard > len(firsts) and _gain_together(started, costs):
        company_s = min(COMPANY_S - max(each.due_s for each in started), spare - guard_s)
        if company_s > 0.0:
            return Plan((), min(company_s, wait_s) if firsts else company_s)
    return _serve_relaxed(started, patient, spare, guard_s, wait_s, wanted, costs, max_batch)


def slacks_s(started: Sequence[Candidate], costs: CostTable, max_batch: int) -> list[float]:
    """How long streams can be left alone if they are then served back to back, each with its smallest hop.

    started:  earliest deadline first.
    Returns for each stream the seconds that it and all before it can wait on its account; the least of them counts.
    """
    slacks, frames = [], 0
    calls_s: dict[int, float] = {}  # by rows, of calls with so many frames
    full, rest = 0, 0
    for candidate in started:
        if candidate.frames > frames:
            frames = candidate.frames
            calls_s = {0: 0.0, max_batch: costs.estimate_s(max_batch, frames)}
        rest += 1
        if rest == max_batch:
            full, rest = full + 1, 0
        if rest not in calls_s:
            calls_s[rest] = costs.estimate_s(rest, frames)
        slacks.append(candidate.dry_s - MARGIN_S - (full * calls_s[max_batch] + calls_s[rest]))
    return slacks


def first_hop_under_load(
    costs: CostTable, num_streams: int, *, least_tokens: int, chunk_tokens: int, max_tokens: int, max_batch: int
) -> int:
    """Speech tokens of a new stream's first hop: more, in whole chunks, when the system is near its capacity.

    What the first hop plays has to last until every open stream has been served one chunk. A short first hop under load
    is heard early and then stops.

    num_streams:   open streams, this one included.
    least_tokens:  the first hop of an idle system.   max_tokens: the largest allowed hop.
    """
    full, rest = divmod(num_streams, max_batch)
    frames = FRAMES_PER_TOKEN * chunk_tokens
    round_s = full * costs.estimate_s(max_batch, frames) + costs.estimate_s(rest, frames)
    tokens = least_tokens
    for _ in range(MAX_FIRST_HOP_GROWTH):
        if _playable_s(tokens) >= round_s + 2 * MARGIN_S or tokens + chunk_tokens > max_tokens:
            break
        tokens += chunk_tokens
    return tokens


def _playable_s(tokens: int) -> float:
    return (FRAMES_PER_TOKEN * tokens - WITHHELD_FRAMES) * SAMPLES_PER_FRAME / SAMPLE_RATE_HZ


def _serve_hurried(
    started: Sequence[Candidate],
    num_hurried: int,
    firsts: Sequence[Candidate],
    wanted: float,
    costs: CostTable,
    max_batch: int,
) -> Plan:
    """Streams that would run dry, and among them those who have waited for first audio for too long."""
    overdue = [each for each in firsts if each.age_s >= FIRST_MAX_WAIT_S]
    hurried = [*started[:num_hurried], *overdue]
    hurried.sort(key=lambda each: (each.dry_s if each.is_started else FIRST_MAX_WAIT_S - each.age_s, each.key))
    chosen = {each.key for each in hurried}
    queue = [*hurried, *(each for each in (*firsts, *started[num_hurried:]) if each.key not in chosen)]
    num_rows, call_s = _best_call_s(hurried, costs, max_batch)
    ways = shapes(queue, costs, num_urgent=len(hurried) + len(firsts), least_rows=num_rows, max_batch=max_batch)
    if _comes_late(hurried, num_rows, call_s):
        return Plan(fullest(ways).picks)
    head_s = min(each.dry_s for each in hurried[:num_rows]) - MARGIN_S
    limit_s = max(FREE_RIDE * call_s, min(max(MAX_BLOCK_S, shortest(ways, wanted).call_s), head_s))
    return Plan(roomiest(ways, limit_s, len(hurried)).picks)


def _comes_late(hurried: Sequence[Candidate], num_rows: int, call_s: float) -> bool:
    """True when some of them run dry although they are served back to back, so many in a call."""
    return any(
        (place // num_rows + 1) * call_s > each.dry_s - MARGIN_S
        for place, each in enumerate(hurried)
        if each.is_started
    )


def _serve_firsts(
    firsts: Sequence[Candidate],
    started: Sequence[Candidate],
    spare: float,
    wanted: float,
    costs: CostTable,
    max_batch: int,
) -> Plan:
    num_rows, call_s = _best_call_s(firsts, costs, max_batch)
    queue = [*firsts, *started]
    ways = shapes(queue, costs, num_urgent=len(firsts), least_rows=num_rows, max_batch=max_batch)
    way = fullest(ways) if all(each.is_buffered for each in firsts) else shortest(ways, wanted)
    if way.call_s > max(spare, call_s):
        way = roomiest(ways, max(spare, call_s), len(firsts))
    return Plan(way.picks)


def _serve_buffered(queue: Sequence[Candidate], costs: CostTable, max_batch: int) -> tuple[Pick, ...]:
    """Nobody listens: the oldest, and with them those of about the same length."""
    num_oldest = -(-len(queue) // OLDEST_PART)
    return fullest(shapes(queue, costs, num_urgent=num_oldest, least_rows=1, max_batch=max_batch)).picks


def _serve_relaxed(
    started: Sequence[Candidate],
    patient: Sequence[Candidate],
    spare: float,
    guard_s: float,
    firsts_wait_s: float,
    wanted: float,
    costs: CostTable,
    max_batch: int,
) -> Plan:
    """Nobody is in a hurry: hops that have nothing to wait for, then buffered requests that fit into the gap."""
    waits_s = {each.key: _growing_wait_s(each, spare - guard_s) for each in started}
    ready = [each for each in started if waits_s[each.key] <= 0.0]
    fits = bool(patient) and costs.estimate_s(1, patient[0].frames) <= spare
    if patient and not fits and started and not ready:
        ready = list(started)  # serving them early makes the gap that the buffered request needs
    if patient and (fits or not started):
        ready += patient
    rechecks = [wait_s for wait_s in waits_s.values() if wait_s > 0.0]
    if firsts_wait_s > 0.0:
        rechecks.append(firsts_wait_s)
    recheck_s = min(rechecks, default=None)
    if not ready or firsts_wait_s > 0.0:
        return Plan((), recheck_s)
    ways = shapes(ready, costs, num_urgent=0, least_rows=1, max_batch=max_batch)
    if not started:
        way = fullest(ways)
    elif ready[0].is_started:
        way = calmest(ways, wanted)
    else:
        way = roomiest(ways, MAX_BLOCK_S)
    if way.call_s > spare:
        way = roomiest(ways, spare)
    return Plan(way.picks, recheck_s)


def _coalescing_wait_s(firsts: Sequence[Candidate], costs: CostTable, num_unheard: int) -> float:
    """How long first chunks had better wait for each other; 0 when nobody else can come."""
    if not firsts or num_unheard <= len(firsts):
        return 0.0
    window_s = costs.estimate_s(1, firsts[0].frames) / 10.0
    window_s = min(MAX_COALESCE_S, max(MIN_COALESCE_S, window_s))
    return max(0.0, window_s - max(each.due_s for each in firsts))


def _gain_together(started: Sequence[Candidate], costs: CostTable) -> bool:
    """True when two hops take much less time together than one after the other."""
    frames = max((each.frames for each in started), default=0)
    return frames > 0 and costs.estimate_s(2, frames) <= COMPANY_GAIN * 2.0 * costs.estimate_s(1, frames)


def _growing_wait_s(candidate: Candidate, slack_s: float) -> float:
    """How long a started stream had better wait for a larger hop or for its end; never beyond the slack."""
    if candidate.can_grow:
        return max(0.0, slack_s)
    return max(0.0, min(candidate.hold_s, slack_s))


def _best_call_s(queue: Sequence[Candidate], costs: CostTable, max_batch: int) -> tuple[int, float]:
    """(rows, seconds) of the calls that end all waiting of this queue soonest: the least sum of completion times."""
    best: tuple[float, int, float] | None = None
    count, frames = len(queue), 0
    for rows in range(1, min(count, max_batch) + 1):
        frames = max(frames, queue[rows - 1].frames)
        call_s = costs.estimate_s(rows, frames)
        calls = -(-count // rows)
        # Row i is done after i // rows + 1 calls.
        total_s = call_s * (rows * calls * (calls + 1) / 2 - (calls * rows - count) * calls)
        if best is None or total_s <= best[0]:
            best = total_s, rows, call_s
    assert best is not None, "there is somebody to serve"
    return best[1], best[2]
