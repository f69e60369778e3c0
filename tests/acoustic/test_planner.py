"""The order of service is a pure function of the listeners' clocks and of what calls cost."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.acoustic.candidate import BUFFERED_MAX_WAIT_S, Candidate, Pick
from light_tts.acoustic.planner import (
    COMPANY_S,
    FIRST_MAX_WAIT_S,
    MARGIN_S,
    MAX_COALESCE_S,
    MIN_COALESCE_S,
    RESERVE_S,
    first_hop_under_load,
    plan,
)
from light_tts.acoustic.stage_costs import CostTable

ROWS = (1, 2, 4, 8, 16, 32, 64)
SIZES = (50, 100, 150, 200, 400)


def table(call_s: float, frame_s: float) -> CostTable:
    return CostTable((rows, size, call_s + frame_s * rows * size) for rows in ROWS for size in SIZES)


GPU = table(0.010, 0.000005)  # sixteen rows cost hardly more than one
CPU = table(0.001, 0.001)  # two rows take twice as long
CONCAVE = table(0.040, 0.00003)  # a large GPU: 64 rows cost a third of four times 16

candidates = st.lists(
    st.builds(
        Candidate,
        key=st.integers(0, 10_000),
        frames=st.integers(1, 600),
        waiting_s=st.floats(0, 60),
        unplayed_s=st.none() | st.floats(-5, 60),
        due_s=st.floats(0, 1),
        more_chunks=st.integers(0, 3),
        chunk_frames=st.just(50),
        last_frames=st.none() | st.integers(1, 54),
        can_grow=st.booleans(),
        hold_s=st.floats(0, 0.1),
        is_buffered=st.booleans(),
    ),
    unique_by=lambda candidate: candidate.key,
    max_size=40,
)
tables = st.sampled_from([GPU, CPU, CostTable()])


def started(key: int, unplayed_s: float, frames: int = 50, **fields) -> Candidate:
    return Candidate(key, frames, 0.0, unplayed_s, **fields)


def new(key: int, waiting_s: float, frames: int = 44, due_s: float = 1.0) -> Candidate:
    return Candidate(key, frames, waiting_s, None, due_s)


def buffered(key: int, waiting_s: float, frames: int = 400) -> Candidate:
    return Candidate(key, frames, waiting_s, None, is_buffered=True)


@given(candidates, st.integers(1, 16), tables, st.integers(0, 50), st.floats(-1, 60))
def test_a_call_is_never_too_wide_and_somebody_is_served_or_looked_at_again(queue, max_batch, costs, unheard, dry_s):
    result = plan(queue, costs, max_batch=max_batch, num_unheard=unheard, next_dry_s=dry_s)
    by_key = {candidate.key: candidate for candidate in queue}
    assert len(result.keys) == len(set(result.keys)) <= max_batch
    assert all(0 <= pick.more_chunks <= by_key[pick.key].more_chunks for pick in result.picks)
    if queue and not result.picks:
        assert result.recheck_s is not None
        assert result.recheck_s > 0.0
    assert result == plan(queue, costs, max_batch=max_batch, num_unheard=unheard, next_dry_s=dry_s)
    shuffled = list(reversed(queue))
    assert result == plan(shuffled, costs, max_batch=max_batch, num_unheard=unheard, next_dry_s=dry_s)


@given(candidates, st.integers(1, 16), tables)
def test_a_stream_that_runs_dry_is_served_at_once_earliest_first(queue, max_batch, costs):
    queue = [each._replace(waiting_s=min(each.waiting_s, FIRST_MAX_WAIT_S / 2)) for each in queue]
    dry = [each for each in queue if each.is_started and each.dry_s < MARGIN_S]
    if dry:
        assert plan(queue, costs, max_batch=max_batch).keys[0] == min(dry, key=lambda each: (each.dry_s, each.key)).key


def test_a_stream_about_to_run_dry_goes_before_a_first_chunk():
    queue = [new(1, 0.5), started(2, RESERVE_S / 2)]
    assert plan(queue, CPU, max_batch=1).keys == (2,)


def test_first_chunks_go_before_streams_that_keep_more_than_the_reserve_oldest_first():
    queue = [started(1, RESERVE_S + 0.2), new(2, 0.1), new(3, 0.4)]
    assert plan(queue, GPU, max_batch=3).keys == (3, 2, 1)
    assert plan(queue, CPU, max_batch=3).keys[0] == 3


@given(st.lists(st.floats(0, 0.9), min_size=1, max_size=30, unique=True), st.integers(1, 16), tables)
def test_first_audio_is_ordered_by_age(ages, max_batch, costs):
    queue = [new(key, age) for key, age in enumerate(ages)]
    keys = plan(queue, costs, max_batch=max_batch).keys
    oldest = sorted(range(len(ages)), key=lambda key: -ages[key])
    assert list(keys) == oldest[: len(keys)]


def test_many_streams_with_the_same_deadline_are_started_in_time():
    """Each alone has a second; sixteen of them, one after the other, have not."""
    assert plan([started(1, 1.0, can_grow=True)], CPU, max_batch=16).keys == ()
    crowd = [started(key, 1.0, can_grow=True) for key in range(16)]
    assert plan(crowd, CPU, max_batch=16).keys
    assert plan(crowd, GPU, max_batch=16).keys == ()


def test_a_call_is_as_wide_as_what_it_costs_makes_sensible():
    crowd = [started(key, 0.06 + key / 1000) for key in range(8)]
    assert len(plan(crowd, GPU, max_batch=16).keys) == 8
    assert len(plan(crowd, CPU, max_batch=16).keys) == 1
    newcomers = [new(key, 0.1) for key in range(8)]
    assert len(plan(newcomers, GPU, max_batch=16).keys) == 8
    assert len(plan(newcomers, CPU, max_batch=16).keys) == 1


def test_a_call_is_full_where_there_is_more_to_do_than_time():
    late = [started(key, 0.02) for key in range(64)]
    assert len(plan(late[:8], CONCAVE, max_batch=64).keys) == 8
    assert len(plan(late, CONCAVE, max_batch=64).keys) == 64
    in_time = [started(key, 0.3) for key in range(64)]
    assert 1 <= len(plan(in_time, CONCAVE, max_batch=64, num_unheard=1).keys) <= 32


def test_as_many_ride_along_with_newcomers_as_keeps_the_crowd_playing():
    """A call makes at least what is heard while it lasts, and is not longer than that."""
    newcomers = [new(100 + key, 0.1) for key in range(4)]
    crowd = [started(key, 2.0) for key in range(60)]
    alone_s = CONCAVE.estimate_s(4, 50)
    assert len(plan([*newcomers, *crowd[:20]], CONCAVE, max_batch=64).keys) == 8
    for num_playing in (0, 100, 200):
        width = len(plan([*newcomers, *crowd], CONCAVE, max_batch=64, num_playing=num_playing).keys)
        call_s = CONCAVE.estimate_s(width, 50)
        assert call_s > alone_s
        assert width - 4 >= (60 + num_playing) * call_s
    assert width == 48


def test_calls_that_nobody_listens_to_are_full():
    buffered = [Candidate(key, 100, 0.5, None, 1.0, is_buffered=True) for key in range(64)]
    assert len(plan(buffered, CONCAVE, max_batch=64).keys) == 64
    assert len(plan(buffered, CPU, max_batch=64).keys) == 1
    listener = started(100, 3.0, can_grow=True)
    assert len(plan([*buffered, listener], CONCAVE, max_batch=64).keys) < 40


def test_riders_do_not_make_an_urgent_call_long():
    urgent, rider = started(1, 0.1), started(2, 9.0, frames=400)
    assert plan([urgent, rider], CPU, max_batch=16).keys == (1,)
    assert plan([urgent, started(2, 9.0)], GPU, max_batch=16).keys == (1, 2)


def test_a_hop_that_can_grow_waits_until_its_slack_is_used_up():
    result = plan([started(1, 5.0, can_grow=True)], GPU, max_batch=16)
    assert result.keys == ()
    assert result.recheck_s == pytest.approx(5.0 - RESERVE_S - GPU.estimate_s(1, 50))
    assert plan([started(1, RESERVE_S, can_grow=True)], GPU, max_batch=16).keys == (1,)
    assert plan([started(1, 5.0)], GPU, max_batch=16).keys == (1,)


def test_a_hop_takes_what_the_deadline_allows():
    assert plan([started(1, 5.0, more_chunks=3)], GPU, max_batch=16).picks == (Pick(1, 3),)
    # 100 ms are left; a chunk takes 51 ms here, four of them 201 ms.
    assert plan([started(1, 0.1 + MARGIN_S, more_chunks=3)], CPU, max_batch=16).picks == (Pick(1, 0),)


def test_a_hop_is_held_for_its_tail_only_while_there_is_time():
    assert plan([started(1, 5.0, hold_s=0.01)], GPU, max_batch=16).recheck_s == pytest.approx(0.01)
    assert plan([started(1, 0.1, hold_s=0.01)], GPU, max_batch=16).keys == (1,)


def test_first_chunks_wait_for_each_other_only_when_somebody_can_come():
    fresh = new(1, 0.0, due_s=0.0)
    assert plan([fresh], GPU, max_batch=16, num_unheard=1).keys == (1,)
    result = plan([fresh], GPU, max_batch=16, num_unheard=2)
    assert result.keys == ()
    assert result.recheck_s is not None
    assert MIN_COALESCE_S <= result.recheck_s <= MAX_COALESCE_S
    assert plan([fresh._replace(due_s=MAX_COALESCE_S)], GPU, max_batch=16, num_unheard=2).keys == (1,)


def test_a_stream_that_has_time_waits_for_a_newcomer_to_share_a_call_with():
    ready = started(1, 2.0)
    result = plan([ready], GPU, max_batch=16, num_unheard=1)
    assert result.keys == ()
    assert result.recheck_s == pytest.approx(COMPANY_S)
    assert plan([ready, new(2, 0.1)], GPU, max_batch=16, num_unheard=1).keys == (2, 1)
    assert plan([ready], GPU, max_batch=16).keys == (1,)


def test_nobody_waits_for_a_newcomer_for_long_or_in_vain():
    ready = started(1, 2.0)
    assert plan([ready._replace(due_s=COMPANY_S)], GPU, max_batch=16, num_unheard=1).keys == (1,)
    assert plan([ready._replace(unplayed_s=RESERVE_S)], GPU, max_batch=16, num_unheard=1).keys == (1,)
    assert plan([ready], CPU, max_batch=16, num_unheard=1).keys == (1,)


def test_first_chunks_have_waited_for_each_other_when_the_call_before_is_launched():
    fresh = new(1, 0.0, due_s=0.0)
    assert plan([fresh], GPU, max_batch=16, num_unheard=2, is_idle=False).keys == (1,)


def test_buffered_requests_come_last_until_they_have_waited_too_long():
    queue = [buffered(1, BUFFERED_MAX_WAIT_S / 2), started(2, 4.0), new(3, 0.2)]
    assert plan(queue, CPU, max_batch=1).keys == (3,)
    assert plan(queue[:2], CPU, max_batch=1).keys == (2,)
    assert plan(queue[:1], CPU, max_batch=1).keys == (1,)
    overdue = buffered(4, BUFFERED_MAX_WAIT_S + 0.5, frames=50)
    assert plan([*queue, overdue], CPU, max_batch=1).keys == (4,)


def test_a_buffered_request_does_not_run_into_a_deadline():
    long = buffered(1, 0.0, frames=600)  # 601 ms
    assert plan([long], CPU, max_batch=1).keys == (1,)
    assert plan([long, started(2, 0.6, can_grow=True)], CPU, max_batch=1).keys == (2,)
    assert plan([long, started(2, 5.0, can_grow=True)], CPU, max_batch=1).keys == (1,)


class Served:
    """A queue that is never empty: whoever was served is due again, with audio for so long."""

    def __init__(self, queue: list[Candidate], costs: CostTable, gain_s: float) -> None:
        self.queue = {each.key: each for each in queue}
        self.costs, self.gain_s = costs, gain_s
        self.now_s = 0.0

    def step(self, max_batch: int) -> tuple[int, ...]:
        result = plan(list(self.queue.values()), self.costs, max_batch=max_batch)
        rows = [self.queue[key].frames for key in result.keys]
        passed_s = self.costs.estimate_s(len(rows), max(rows)) if rows else result.recheck_s
        assert passed_s is not None
        self.now_s += passed_s
        for key, each in self.queue.items():
            dry_s = None if each.unplayed_s is None else each.unplayed_s - passed_s
            if key in result.keys:
                each = each._replace(waiting_s=-passed_s, unplayed_s=(dry_s or 0.0) + self.gain_s)
                dry_s = each.unplayed_s
            self.queue[key] = each._replace(waiting_s=each.waiting_s + passed_s, unplayed_s=dry_s)
        return result.keys


@given(
    st.lists(st.sampled_from(["started", "new", "buffered"]), min_size=2, max_size=12),
    st.sampled_from([GPU, CPU]),
    st.sampled_from([0.1, 0.3, 1.0]),
    st.integers(1, 4),
)
@settings(deadline=None)
def test_no_stream_starves_however_overloaded(kinds, costs, gain_s, max_batch):
    make = {"started": lambda key: started(key, 0.5), "new": lambda key: new(key, 0.0), "buffered": None}
    queue = [make[kind](key) if make[kind] else buffered(key, 0.0, 50) for key, kind in enumerate(kinds)]
    system = Served(queue, costs, gain_s)
    unserved = {each.key for each in queue}
    # A dozen streams that each get 0.1 s of audio for 0.05 s of work are late for ever.
    while unserved and system.now_s < 60.0:
        unserved -= set(system.step(max_batch))
    assert unserved == set()


def hop(num_streams: int, costs: CostTable, max_batch: int = 16) -> int:
    return first_hop_under_load(
        costs, num_streams, least_tokens=22, chunk_tokens=25, max_tokens=100, max_batch=max_batch
    )


def test_the_first_hop_grows_near_the_capacity_and_only_there():
    assert hop(1, GPU) == hop(64, GPU) == hop(1, CPU) == 22
    assert hop(20, CPU) == 47
    assert hop(1000, CPU) == 97


@given(st.integers(1, 500), st.integers(1, 500), tables, st.integers(1, 64), st.integers(22, 200))
def test_the_first_hop_stays_on_the_grid_and_within_its_limit(one, other, costs, max_batch, most):
    sizes = [
        first_hop_under_load(costs, count, least_tokens=22, chunk_tokens=25, max_tokens=most, max_batch=max_batch)
        for count in (one, other)
    ]
    assert all(size <= most and (size - 22) % 25 == 0 for size in sizes)


def test_nobody_to_serve_means_nothing_to_do():
    assert plan([], GPU, max_batch=4).picks == ()
    assert plan([], GPU, max_batch=4, next_dry_s=-math.inf).recheck_s is None


def test_a_tail_that_does_not_fill_a_row_is_not_padded_for_by_all():
    """A hop of 52 frames needs a row of two chunks."""
    crowd = [started(key, 0.3, more_chunks=1) for key in range(30)]
    long = started(99, 0.3, frames=50, more_chunks=2, last_frames=54)
    picks = {pick.key: pick.more_chunks for pick in plan([*crowd, long], CONCAVE, max_batch=32, num_unheard=1).picks}
    assert picks[99] <= max(picks.values()) <= 1


def test_those_who_fill_their_row_ride_along_first():
    urgent = [started(key, 0.05) for key in range(16)]
    ready = [started(100 + key, 2.0, more_chunks=key % 2) for key in range(200)]
    picks = plan([*urgent, *ready], CONCAVE, max_batch=64).picks
    assert [pick.key for pick in picks[:16]] == list(range(16))
    if any(pick.more_chunks for pick in picks):
        assert all(pick.more_chunks for pick in picks[16:])


def test_buffered_requests_of_one_length_share_a_call_and_the_oldest_is_in_it():
    queue = [Candidate(key, 200 + 300 * (key % 2), 3.0 - key / 100, None, 1.0, is_buffered=True) for key in range(64)]
    keys = plan(queue, CONCAVE, max_batch=16).keys
    assert keys[0] == 0
    assert len(keys) == 16
    assert sum(key % 2 for key in keys) in (*range(3), *range(14, 17))
