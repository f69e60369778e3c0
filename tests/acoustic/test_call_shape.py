"""How many hops share a call, and how large they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_tts.acoustic.call_shape import BACKLOG_BLOCK_S, calmest, demand, fullest, roomiest, shapes, shortest
from light_tts.acoustic.candidate import Candidate
from light_tts.acoustic.stage_costs import CostTable

COSTS = CostTable((rows, 50, 0.04 + 0.00003 * 50 * rows) for rows in (1, 2, 4, 8, 16, 32, 64))

hops = st.builds(
    Candidate,
    key=st.integers(0, 10_000),
    frames=st.integers(1, 300),
    waiting_s=st.just(0.0),
    unplayed_s=st.none() | st.floats(-5, 60),
    due_s=st.just(0.0),
    more_chunks=st.integers(0, 4),
    chunk_frames=st.just(50),
    last_frames=st.none() | st.integers(1, 54),
    again_frames=st.just(0),
    can_grow=st.just(False),
    hold_s=st.just(0.0),
    is_buffered=st.just(False),
    ends=st.booleans(),
)
queues = st.lists(hops, min_size=1, max_size=100, unique_by=lambda each: each.key)


def ready(count, more_chunks=0, **fields):
    return [Candidate(key, 50, 0.0, 1.0, more_chunks=more_chunks, **fields) for key in range(count)]


def of(queue, least_rows=1, num_urgent=0, max_batch=64):
    return shapes(queue, COSTS, num_urgent=num_urgent, least_rows=least_rows, max_batch=max_batch)


@given(queues, st.integers(1, 64), st.data())
def test_every_shape_can_be_run(queue, max_batch, data):
    num_urgent = data.draw(st.integers(0, len(queue)))
    least_rows = data.draw(st.integers(1, min(max_batch, max(1, num_urgent), len(queue))))
    ways = of(queue, least_rows, num_urgent, max_batch)
    assert [way.call_s for way in ways] == sorted(way.call_s for way in ways)
    by_key = {each.key: each for each in queue}
    for way in ways:
        keys = [pick.key for pick in way.picks]
        assert least_rows <= len(keys) == len(set(keys)) <= max_batch
        if num_urgent:
            assert keys[:least_rows] == [each.key for each in queue[:least_rows]]
        for pick in way.picks:
            each = by_key[pick.key]
            chunks, frames = each.within(way.frames)
            assert pick.more_chunks == chunks <= each.more_chunks
            assert frames <= way.frames


@pytest.mark.parametrize(("frames", "chunks", "size"), [(40, 0, 50), (99, 0, 50), (150, 2, 150), (160, 3, 154)])
def test_a_hop_grows_as_far_as_it_may(frames, chunks, size):
    hop = Candidate(0, 50, 0.0, 1.0, more_chunks=3, last_frames=4)
    assert hop.most_frames == 154
    assert hop.within(frames) == (chunks, size)


def test_a_call_is_as_long_as_it_takes_to_make_what_is_heard():
    ways = of(ready(64, more_chunks=3))
    rates = [shortest(ways, wanted).made_s / shortest(ways, wanted).call_s for wanted in (10, 100, 300, 500)]
    assert rates == sorted(rates)
    assert all(rate >= wanted for rate, wanted in zip(rates, (10, 100, 300, 500), strict=True))
    assert shortest(ways, 10).rows == 1
    assert shortest(ways, 1e9) == fullest(ways)


def test_newcomers_wait_least_when_calls_are_neither_tiny_nor_long():
    calm = calmest(of(ready(64)), 0.0)
    assert 1 < calm.rows < 64
    assert calm.call_s < fullest(of(ready(64))).call_s <= BACKLOG_BLOCK_S


def test_what_is_computed_again_is_no_audio():
    [once] = of(ready(1))
    [again] = of([Candidate(0, 150, 0.0, 1.0, again_frames=100)])
    assert again.made_s == again.played_s == once.made_s
    assert again.call_s > once.call_s
    queue = [*ready(8), *(Candidate(key, 150, 0.0, 1.0, again_frames=100) for key in range(8, 16))]
    assert [pick.key for pick in fullest(of(queue)).picks] == list(range(8))


def test_urgent_hops_go_before_long_ones():
    ways = of(ready(64, more_chunks=3), num_urgent=32)
    assert roomiest(ways, COSTS.estimate_s(32, 50), 32).rows == 32
    assert roomiest(ways, 0.0).rows == 1


def test_streams_that_end_ride_along_before_others():
    """Others would stay, and keep their states, however long their hops are."""
    ending = [Candidate(key, 50, 0.0, 2.0, more_chunks=1, ends=True) for key in range(8, 12)]
    queue = [*ready(8, more_chunks=3), *ending]
    ways = {(way.rows, way.frames): way for way in of(queue)}
    assert [pick.key for pick in ways[4, 100].picks] == [8, 9, 10, 11]
    assert [pick.key for pick in ways[8, 200].picks] == [8, 9, 10, 11, 0, 1, 2, 3]
    # One that would have to come back is no better than the others.
    assert [pick.key for pick in ways[4, 50].picks] == [0, 1, 2, 3]


def test_streams_that_end_do_not_pass_urgent_ones():
    queue = [*ready(4), *(Candidate(key, 50, 0.0, 2.0, ends=True) for key in range(4, 8))]
    [way] = [way for way in of(queue, least_rows=4, num_urgent=4) if way.rows == 4]
    assert [pick.key for pick in way.picks] == [0, 1, 2, 3]


def test_who_listens_and_what_waits_is_wanted():
    assert demand([], 100, COSTS) > 100
    assert demand(ready(10, more_chunks=3), 10, COSTS) > demand(ready(10), 10, COSTS) > 10


def test_what_waits_is_wanted_sooner_where_calls_are_fast():
    slow = CostTable((rows, 50, 1.0 + 0.01 * rows) for rows in (1, 2, 4, 8))
    queue = ready(10, more_chunks=3)
    assert demand(queue, 10, COSTS) > demand(queue, 10, slow) > 10
