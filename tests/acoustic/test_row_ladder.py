"""Numbers of rows of flow calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_tts.acoustic.row_ladder import BETWEEN, ROWS, padded_rows


def test_the_ladder_begins_at_one_and_has_no_other_steps_than_halves_between_powers_of_two():
    assert ROWS[0] == 1
    assert list(ROWS) == sorted(set(ROWS))
    assert {rows for rows in ROWS if rows & (rows - 1)} == BETWEEN


@given(st.integers(1, 300))
def test_rows_are_padded_to_the_next_step(rows):
    padded = padded_rows(rows)
    assert padded >= rows
    assert padded_rows(padded) == padded
    assert all(step < rows or step >= padded for step in ROWS)
    assert padded < 2 * rows


@pytest.mark.parametrize("rows", range(17, 65))
def test_a_crowd_never_computes_more_than_half_as_many_rows_again(rows):
    assert padded_rows(rows) <= 1.5 * rows
