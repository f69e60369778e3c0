"""Every usual flow call runs in recorded sizes, with little padding; nothing is left out or computed twice."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.acoustic.flow_sizes import (
    ANY_PAST,
    CALL_FRAMES,
    EAGER_FRAMES,
    MOST_FRAMES,
    MOST_ROWS,
    BodySight,
    CallSize,
    RowSize,
    SizeTable,
    call_cost,
    catalogue,
    telling_sizes,
)
from light_tts.settings import AcousticSettings

CHUNK_FRAMES, UTTERANCE = 50, 300
SIGHTS = {
    "without attention": BodySight(False, 0, UTTERANCE),
    "in place": BodySight(True, 81, UTTERANCE),
    "plain": BodySight(True, 0, UTTERANCE),
}
LONGEST = {"without attention": 256, "in place": 81, "plain": 24}  # chunks of recorded rows
sights = pytest.mark.parametrize("name", SIGHTS)


def sizes_of(name: str, max_rows: int) -> list[CallSize]:
    return catalogue(SIGHTS[name], chunk_frames=CHUNK_FRAMES, max_rows=max_rows)


def table_of(name: str, max_rows: int) -> SizeTable:
    table = SizeTable(SIGHTS[name], CHUNK_FRAMES)
    table.add(sizes_of(name, max_rows))
    return table


def cost_of(table: SizeTable, rows: list[RowSize], groups: list[list[int]]) -> int:
    cost = 0
    for group in groups:
        chunks, past = (max(rows[index][field] for index in group) for field in (0, 1))
        cost += table.cheapest(len(group), chunks, past)[0]
    return cost


@sights
@pytest.mark.parametrize("max_rows", [1, 3, 16, 24, 64])
def test_the_catalogue_is_small_enough_to_be_recorded_at_the_start(name: str, max_rows: int) -> None:
    sizes = sizes_of(name, max_rows)
    assert len(sizes) == len(set(sizes)) <= AcousticSettings().flow_graphs
    assert max(size.rows for size in sizes) == max_rows
    for size in sizes:
        assert size.rows * size.chunks * CHUNK_FRAMES <= MOST_FRAMES
        assert SIGHTS[name].takes(size, 0)
    assert sizes[0][:2] == (1, 1), "what every listener waits for"


@sights
@pytest.mark.parametrize("max_rows", [16, 24, 64])
def test_equal_rows_cost_little_more_than_in_a_call_of_just_their_size(name: str, max_rows: int) -> None:
    table, ratios = table_of(name, max_rows), []
    for count in range(1, max_rows + 1):
        for chunks in range(1, LONGEST[name] + 1):
            if count * chunks * CHUNK_FRAMES > MOST_FRAMES:
                break
            rows = [RowSize(chunks, 0)] * count
            cost = cost_of(table, rows, table.groups(rows))
            ratios.append(cost / (CALL_FRAMES + count * chunks * CHUNK_FRAMES))
    assert max(ratios) < 1.65
    assert sum(ratios) / len(ratios) < 1.2


@st.composite
def crowds(draw: st.DrawFn) -> tuple[str, int, list[RowSize]]:
    name, max_rows = draw(st.sampled_from(list(SIGHTS))), draw(st.sampled_from([1, 16, 24, 64]))
    short = st.builds(RowSize, st.integers(1, 6), st.integers(0, 40))
    whole = st.builds(RowSize, st.integers(1, LONGEST[name]), st.just(0))
    far = st.builds(RowSize, st.integers(1, 6), st.integers(0, UTTERANCE - 6))
    return name, max_rows, draw(st.lists(st.one_of(short, whole, far), min_size=1, max_size=max_rows))


@settings(max_examples=150, deadline=None)
@given(crowds())
def test_usual_rows_run_in_recorded_calls_that_hold_them(crowd: tuple[str, int, list[RowSize]]) -> None:
    name, max_rows, rows = crowd
    table = table_of(name, max_rows)
    groups = table.groups(rows)
    assert sorted(index for group in groups for index in group) == list(range(len(rows)))
    for group in groups:
        chunks, past = (max(rows[index][field] for index in group) for field in (0, 1))
        cost, size = table.cheapest(len(group), chunks, past)
        assert size is not None, (group, chunks, past)
        assert size.rows >= len(group)
        assert size.chunks >= chunks
        assert cost == call_cost(size, CHUNK_FRAMES)
        if size.past_pages == ANY_PAST:
            assert past + size.chunks <= 81
        elif SIGHTS[name].attends:
            assert size.past_pages >= past
    alone = [[index] for index in range(len(rows))]
    assert cost_of(table, rows, groups) <= cost_of(table, rows, alone)


@sights
def test_what_is_not_recorded_is_computed_in_as_few_calls_as_fit(name: str) -> None:
    table = SizeTable(SIGHTS[name], CHUNK_FRAMES)
    rows = [RowSize(2, 0)] * 10
    assert table.cheapest(10, 2, 0) == (CALL_FRAMES + EAGER_FRAMES + 1000, None)
    assert [len(group) for group in table.groups(rows)] == [10]
    long = [RowSize(200, 0)] * 3
    assert [len(group) for group in table.groups(long)] == [1, 1, 1], "bounded memory"
    many = [RowSize(1, 0)] * (MOST_ROWS + 1)
    assert len(table.groups(many)) == 2


def test_rows_are_shared_out_where_padding_costs_more_than_a_call() -> None:
    table = table_of("in place", 16)
    assert [len(group) for group in table.groups([RowSize(1, 8)] * 15)] == [15]
    assert sorted(len(group) for group in table.groups([RowSize(16, 0)] * 9)) == [1, 8]
    mixed = [RowSize(1, 8), RowSize(20, 0), RowSize(1, 8)]
    assert table.groups(mixed) == [[1], [0, 2]]


def test_rows_are_shared_out_by_what_calls_cost() -> None:
    table, rows = table_of("in place", 16), [RowSize(9, 0)] * 16
    assert [len(group) for group in table.groups(rows)] == [8, 8], "two calls cost little beside so much padding"
    table.price(lambda frames: 5_000 + frames)
    assert [len(group) for group in table.groups(rows)] == [16]


def test_sizes_of_all_magnitudes_tell_what_calls_cost() -> None:
    telling = telling_sizes(sizes_of("in place", 64))
    frames = [size.rows * size.chunks for size in telling]
    assert frames == sorted(frames)
    assert frames[0] == 1
    assert frames[-1] == MOST_FRAMES // CHUNK_FRAMES
    assert all(after <= 4 * before for before, after in pairwise(frames))
    assert len(telling) <= 10


def test_without_a_recorded_size_everything_is_computed() -> None:
    table = SizeTable(SIGHTS["in place"], CHUNK_FRAMES)
    assert table.cheapest(1, 1, 0)[1] is None
    table.add([CallSize(1, 1, ANY_PAST)])
    assert table.cheapest(1, 1, 0)[1] == CallSize(1, 1, ANY_PAST), "what was found before is forgotten"
    assert table.cheapest(1, 1, 81)[1] is None
    assert table.cheapest(2, 1, 0)[1] is None
