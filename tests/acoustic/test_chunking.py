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
    assert not plan.is_due(27, ended=False)
    assert plan.next_hop(27, ended=False) is None
    assert plan.is_due(28, ended=False)
    assert plan.is_due(0, ended=True)


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
