"""Sizes of vocoder calls: everything that service asks for is in the catalogue, and padding is bounded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.acoustic.vocoder_causal_rows import CausalRows
from light_tts.acoustic.vocoder_overlap_rows import OverlapRows
from light_tts.acoustic.vocoder_rows import groups_of
from light_tts.acoustic.vocoder_sizes import MOST_FRAMES, ROWS, recorded_size, rows_for

LADDERS = {"symmetric": OverlapRows.ladder, "causal": CausalRows.ladder}
BOTH = pytest.mark.parametrize("kind", LADDERS)


def rows_of(lengths):
    return [SimpleNamespace(frames=frames) for frames in lengths]


@BOTH
def test_the_catalogue_is_small_and_begins_with_the_largest(kind):
    sizes = LADDERS[kind].sizes()
    work = [rows * frames for rows, frames in sizes]
    assert work == sorted(work, reverse=True)
    assert work[0] == MOST_FRAMES
    assert len(set(sizes)) == len(sizes) <= 90
    assert {rows for rows, _ in LADDERS[kind].sizes(3)} == {1, 2, 4}
    assert len(LADDERS[kind].sizes(16)) <= 70


@BOTH
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_whatever_is_decoded_together_is_in_the_catalogue(kind, data):
    """Also with fewer rows: the engine never joins more than `max_batch`."""
    ladder = LADDERS[kind]
    max_rows = data.draw(st.integers(1, ROWS[-1]))
    lengths = data.draw(st.lists(st.integers(1, ladder.frames[-1]), min_size=1, max_size=max_rows))
    catalogue = set(ladder.sizes(max_rows))
    groups = groups_of(rows_of(lengths), ladder)
    assert sorted(row.frames for group in groups for row in group) == sorted(lengths)
    for group in groups:
        size = rows_for(len(group)), ladder.length_for(max(row.frames for row in group))
        assert size in catalogue
        assert recorded_size(catalogue, size) == size


@BOTH
def test_little_of_a_call_is_padding(kind):
    ladder = LADDERS[kind]
    for shorter, longer in zip(ladder.frames, ladder.frames[1:], strict=False):
        assert longer <= 1.5 * shorter
    # First hops of 22 tokens, and whole chunks of 50 frames: causal pieces come with 7 that waited, overlapping ones
    # with 8 that are faded.
    for frames in (44, 57, 107, 157, 207) if kind == "causal" else (44, 58):
        assert ladder.length_for(frames) == frames
    [*groups] = groups_of(rows_of([300] * 32), ladder)
    computed = sum(rows_for(len(group)) * ladder.length_for(300) for group in groups)
    assert computed <= 1.2 * 32 * 300


def test_rows_beyond_the_ladder_are_computed_alone():
    assert [len(group) for group in groups_of(rows_of([5000, 5000, 50]), OverlapRows.ladder)] == [1, 1, 1]


def test_a_call_takes_the_smallest_recorded_size_that_is_not_much_larger():
    sizes = [(1, 32), (1, 64), (2, 64), (4, 208)]
    assert recorded_size(sizes, (1, 32)) == (1, 32)
    assert recorded_size(sizes, (1, 48)) == (1, 64)
    assert recorded_size(sizes, (1, 24)) == (1, 32)
    assert recorded_size(sizes, (2, 32)) is None
    assert recorded_size(sizes, (4, 160)) == (4, 208)
    assert recorded_size(sizes, (8, 64)) is None
