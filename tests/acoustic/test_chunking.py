from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_tts.acoustic.chunking import MIN_FIRST_PIECE_FRAMES, Hop, HopPlan, grid_pieces
from light_tts.verify.report import Ledger
from light_tts.verify.schedule_checks import check_schedule

GOLDEN = Path(__file__).parents[1] / "golden" / "schedule"

counts = st.integers(0, 700)
plans = st.fixed_dictionaries(
    {
        "first_hop_tokens": st.integers(1, 100),
        "max_hop_tokens": st.integers(1, 300),
        "growth": st.integers(1, 3),
        "even_hop_tokens": st.none() | st.integers(1, 100),
        "chunk_tokens": st.sampled_from([4, 10, 25]),
        "final_full_mask": st.booleans(),
    }
)


def run_plan(plan: HopPlan, total: int, step: int = 1) -> list[Hop]:
    hops = []
    for available in [*range(0, total, step), total]:
        ended = available == total
        while (hop := plan.next_hop(available, ended)) is not None:
            assert plan.next_hop(available, ended) == hop, "looking does not change the plan"
            plan.advance(hop)
            hops.append(hop)
    return hops


def pieces_of(hops: list[Hop], prompt_tokens: int, chunk_tokens: int) -> list[int]:
    return [
        piece
        for hop in hops
        for piece in grid_pieces(2 * hop.offset_tokens, hop.num_frames, 2 * prompt_tokens, 2 * chunk_tokens)
    ]


def test_recorded_schedules_are_reproduced():
    ledger = Ledger(GOLDEN)
    check_schedule(ledger)
    rows = ledger.finish()
    assert len(rows) > 60
    assert [row.name for row in rows if not row.ok and not row.informative] == []


def test_a_wrong_schedule_is_noticed(tmp_path):
    for path in GOLDEN.iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace('"mel_frames": 50', '"mel_frames": 48'))
    ledger = Ledger(tmp_path)
    check_schedule(ledger)
    assert any(not row.ok and not row.informative for row in ledger.finish())


@given(prompt=counts, total=counts, options=plans, step=st.integers(1, 40))
def test_hops_cover_every_token_once_and_end_on_the_grid(prompt, total, options, step):
    hops = run_plan(HopPlan.streaming(prompt, **options), total, step)
    position = 0
    for hop in hops:
        assert hop.offset_tokens == position
        position += hop.hop_tokens
        if not hop.is_final:
            assert hop.visible_tokens == position + 3
            assert (prompt + position) % options["chunk_tokens"] == 0
            assert not hop.full_mask
    assert position == total
    assert [hop.is_final for hop in hops] == [False] * (len(hops) - 1) + [True]
    assert hops[-1].visible_tokens == total
    assert hops[-1].full_mask is options["final_full_mask"]


@given(prompt=counts, total=counts, options=plans)
def test_a_plan_does_not_depend_on_how_tokens_arrive(prompt, total, options):
    assert run_plan(HopPlan.streaming(prompt, **options), total) == run_plan(
        HopPlan.streaming(prompt, **options), total, step=max(total, 1)
    )


@given(prompt=counts, total=counts, first=plans, second=plans)
def test_pieces_do_not_depend_on_the_sizes_of_hops(prompt, total, first, second):
    second = second | {"chunk_tokens": first["chunk_tokens"]}
    pieces = [
        pieces_of(run_plan(HopPlan.streaming(prompt, **options), total), prompt, first["chunk_tokens"])
        for options in (first, second)
    ]
    assert pieces[0] == pieces[1]
    assert sum(pieces[0]) == 2 * total
    if len(pieces[0]) > 1:
        assert pieces[0][0] >= MIN_FIRST_PIECE_FRAMES


def test_pieces_are_cut_at_grid_points_counted_from_the_prompt():
    assert grid_pieces(0, 76, prompt_frames=2 * 87, chunk_frames=50) == (26, 50)
    assert grid_pieces(76, 120, prompt_frames=2 * 87, chunk_frames=50) == (50, 50, 20)


def test_a_short_first_piece_joins_the_next():
    assert grid_pieces(0, 152, prompt_frames=48, chunk_frames=50) == (52, 50, 50)
    assert grid_pieces(0, 2, prompt_frames=48, chunk_frames=50) == (2,)


def test_an_empty_hop_has_no_pieces():
    assert grid_pieces(50, 0, prompt_frames=0, chunk_frames=50) == ()


@pytest.mark.parametrize(
    ("prompt", "first_hop", "expected"),
    [(0, 25, 25), (1, 25, 49), (87, 25, 38), (15, 10, 10), (15, 50, 60), (20, 5, 30)],
)
def test_the_first_hop_is_the_shortest_that_ends_on_the_grid(prompt, first_hop, expected):
    hop = HopPlan.streaming(prompt, first_hop_tokens=first_hop).next_hop(1000, ended=False)
    assert hop is not None
    assert hop.hop_tokens == expected


def test_a_short_first_hop_grows_to_one_chunk_first():
    hops = run_plan(HopPlan.streaming(15, first_hop_tokens=10), 400)
    assert [hop.hop_tokens for hop in hops[:-1]] == [10, 25, 50, 100, 100, 100]


def test_nothing_is_due_before_the_lookahead_is_there():
    plan = HopPlan.streaming(0)
    assert plan.tokens_needed == 28
    assert plan.smallest_hop(27, ended=False) is None
    assert plan.next_hop(27, ended=False) is None
    assert plan.smallest_hop(28, ended=False) is not None
    assert plan.smallest_hop(0, ended=True) is not None


@pytest.mark.parametrize("even_hop_tokens", [None, 40])
@pytest.mark.parametrize("final_full_mask", [False, True])
def test_between_two_changes_more_tokens_make_no_difference(even_hop_tokens, final_full_mask):
    def possible(plan, available):
        hop = plan.smallest_hop(available, ended=False)
        if hop is None:
            return None
        chunks = plan.more_chunks(hop, available, ended=False)
        largest = plan.grown(hop, chunks, available, ended=False)
        return hop, chunks, plan.can_grow(largest), plan.can_grow(largest, beyond_schedule=True)

    plan = HopPlan.streaming(28, first_hop_tokens=22, even_hop_tokens=even_hop_tokens, final_full_mask=final_full_mask)
    for _ in range(6):
        changes = [n for n in range(1, 700) if possible(plan, n) != possible(plan, n - 1)]
        for available in range(650):
            expected = next((n for n in changes if n > available), None)
            assert plan.next_change(available) == expected
        hop = plan.smallest_hop(changes[0], ended=False)
        assert hop is not None
        plan.advance(hop)


def test_a_plan_without_chunks_changes_with_the_end_only():
    assert HopPlan.offline(87).next_change(500) is None


def test_offline_waits_for_the_end_and_sees_everything():
    plan = HopPlan.offline(87)
    assert plan.next_hop(500, ended=False) is None
    assert run_plan(plan, 500) == [Hop(500, 0, 500, is_final=True, full_mask=True)]
    assert plan.is_finished
    assert plan.next_hop(500, ended=True) is None


def test_a_hop_that_ran_cannot_run_again():
    plan = HopPlan.streaming(0)
    hop = plan.next_hop(100, ended=False)
    assert hop is not None
    plan.advance(hop)
    with pytest.raises(AssertionError, match="in order"):
        plan.advance(hop)


@pytest.mark.parametrize("bad", [{"chunk_tokens": 0}, {"first_hop_tokens": 0}, {"growth": 0}, {"lookahead_tokens": -1}])
def test_impossible_plans_are_refused(bad):
    with pytest.raises(ValueError, match=r"must be at least|cannot be"):
        HopPlan.streaming(0, **bad)


def run_flexibly(plan: HopPlan, total: int, step: int, chunks: list[int]) -> list[Hop]:
    """As a planner does it: the smallest hop and some more chunks."""
    hops: list[Hop] = []
    for available in [*range(0, total, step), total]:
        ended = available == total
        while (smallest := plan.smallest_hop(available, ended)) is not None:
            wanted = chunks[len(hops) % len(chunks)]
            most = plan.more_chunks(smallest, available, ended=ended)
            hop = plan.grown(smallest, min(wanted, most), available, ended=ended)
            plan.advance(hop)
            hops.append(hop)
    return hops


@given(
    prompt=counts,
    total=counts,
    options=plans,
    step=st.integers(1, 200),
    chunks=st.lists(st.integers(0, 4), min_size=1, max_size=5),
)
def test_hops_sized_by_a_planner_stay_on_the_grid_and_give_the_same_pieces(prompt, total, options, step, chunks):
    hops = run_flexibly(HopPlan.streaming(prompt, **options), total, step, chunks)
    chunk = options["chunk_tokens"]
    position = 0
    for hop in hops:
        assert hop.offset_tokens == position
        position += hop.hop_tokens
        assert hop.is_final or (prompt + position) % chunk == 0
        assert hop.visible_tokens <= total
    assert position == total
    assert [hop.is_final for hop in hops] == [False] * (len(hops) - 1) + [True]
    planned = run_plan(HopPlan.streaming(prompt, **options), total)
    assert pieces_of(hops, prompt, chunk) == pieces_of(planned, prompt, chunk)
    if options["final_full_mask"]:
        assert hops == planned, "what the last hop computes again must not depend on the planner"


def test_a_short_tail_joins_the_hop_before_it():
    plan = HopPlan.streaming(0, first_hop_tokens=25)
    plan.advance(plan.next_hop(28, ended=False))
    smallest = plan.smallest_hop(77, ended=True)
    assert smallest == Hop(53, 25, 25, is_final=False, full_mask=False)
    assert plan.more_chunks(smallest, 77, ended=True) == 1
    assert plan.grown(smallest, 1, 77, ended=True) == Hop(77, 25, 52, is_final=True, full_mask=False)
    assert plan.grown(smallest, 0, 77, ended=True) == smallest
    assert plan.more_chunks(smallest, 77, ended=False) == 0
    # One token more, and a chunk joins first.
    assert plan.more_chunks(smallest, 78, ended=True) == 2
    assert plan.grown(smallest, 1, 78, ended=True) == Hop(78, 25, 50, is_final=False, full_mask=False)


def test_a_hop_can_grow_up_to_its_schedule_or_beyond():
    plan = HopPlan.streaming(0, first_hop_tokens=25, max_hop_tokens=100)
    plan.advance(plan.next_hop(28, ended=False))
    smallest = plan.smallest_hop(1000, ended=False)
    assert plan.more_chunks(smallest, 1000, ended=True) == 3
    assert plan.can_grow(smallest)
    scheduled = plan.grown(smallest, 1, 1000, ended=False)
    assert scheduled.hop_tokens == 50
    assert not plan.can_grow(scheduled)
    assert plan.can_grow(scheduled, beyond_schedule=True)
    assert not plan.can_grow(plan.grown(smallest, 3, 1000, ended=False), beyond_schedule=True)


@pytest.mark.parametrize(
    ("hop", "sizes"),
    [
        (25, [25, 25, 25, 25, 25, 25]),
        (50, [50, 50, 50, 50, 50, 50]),
        (100, [100, 100, 100]),
        (30, [50, 25, 25, 25, 25, 50, 25]),
        (40, [50, 50, 25, 50, 25, 50, 50]),
        (10, [25, 25, 25, 25, 25]),
    ],
)
def test_even_hops_have_their_size_on_average_and_end_on_the_grid(hop, sizes):
    plan = HopPlan.streaming(25 - hop % 25, first_hop_tokens=max(8, hop), even_hop_tokens=hop)
    hops = run_plan(plan, 1000)
    assert hops[0].hop_tokens == max(8, hop)
    assert [each.hop_tokens for each in hops[1:]][: len(sizes)] == sizes


@given(st.integers(25, 100), st.integers(0, 100))
def test_even_hops_never_drift_from_what_was_asked_for(hop, prompt):
    hops = run_plan(HopPlan.streaming(prompt, first_hop_tokens=hop, even_hop_tokens=hop), 3000)
    done = 0
    for count, each in enumerate(hops[1:-1], 1):
        done += each.hop_tokens
        assert 0 <= done - count * hop < 25 or each.hop_tokens == hop // 25 * 25


def test_with_even_hops_no_smaller_one_is_offered_but_larger_ones_are():
    plan = HopPlan.streaming(0, first_hop_tokens=50, even_hop_tokens=50)
    plan.advance(plan.next_hop(53, ended=False))
    assert plan.smallest_hop(102, ended=False) is None
    smallest = plan.smallest_hop(153, ended=False)
    assert smallest.hop_tokens == 50
    assert not plan.can_grow(smallest)
    assert plan.can_grow(smallest, beyond_schedule=True)
    plan.advance(plan.grown(smallest, 1, 153, ended=False))
    assert plan.smallest_hop(1000, ended=False).hop_tokens == 50


def test_a_hop_may_be_as_long_as_what_is_computed_again_with_it():
    plan = HopPlan.streaming(28, first_hop_tokens=22, max_hop_tokens=100)
    plan.advance(plan.smallest_hop(1000, ended=False))
    smallest = plan.smallest_hop(1000, ended=False)
    assert plan.more_chunks(smallest, 1000, ended=False) == 3
    plan.again_tokens = 300
    chunks = plan.more_chunks(smallest, 1000, ended=False)
    longest = plan.grown(smallest, chunks, 1000, ended=False)
    assert longest.hop_tokens == 300
    assert plan.can_grow(plan.grown(smallest, 3, 1000, ended=False), beyond_schedule=True)
    assert not plan.can_grow(longest, beyond_schedule=True)
    assert plan.next_change(200) == 22 + 200 + 3
    plan.advance(longest)
    after = plan.smallest_hop(1000, ended=False)
    assert plan.more_chunks(after, 1000, ended=False) == 3


def test_a_stream_without_states_computes_at_most_twice_what_it_says_and_a_little():
    plan, computed, said = HopPlan.streaming(0, first_hop_tokens=25, max_hop_tokens=100), 0, 3000
    while not plan.is_finished:
        plan.again_tokens = plan.offset_tokens
        hop = plan.smallest_hop(said, ended=True)
        hop = plan.grown(hop, plan.more_chunks(hop, said, ended=True), said, ended=True)
        computed += plan.offset_tokens + hop.hop_tokens
        plan.advance(hop)
    assert computed < 2.5 * said
