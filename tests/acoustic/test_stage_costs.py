"""What calls cost, learnt from calls."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_tts.acoustic.stage_costs import LEARNING_RATE, OUTLIER, CostTable

rows = st.integers(1, 64)
frames = st.integers(1, 2000)
calls = st.lists(st.tuples(rows, frames, st.floats(1e-4, 10.0)), max_size=20)


def test_nothing_costs_nothing():
    table = CostTable()
    assert table.estimate_s(0, 50) == table.estimate_s(3, 0) == 0.0
    table.observe(0, 50, 1.0)
    assert table.measured() == []


def test_a_measured_call_is_believed():
    table = CostTable([(4, 50, 0.1)])
    assert table.estimate_s(4, 50) == table.estimate_s(3, 44) == pytest.approx(0.1)


def test_a_call_that_was_never_made_lies_on_the_line_through_the_others():
    table = CostTable((count, size, 0.008 + 0.00003 * count * size) for count, size in [(1, 50), (4, 50), (8, 200)])
    for count, size in [(16, 50), (2, 400), (1, 1000), (16, 200)]:
        assert table.estimate_s(count, size) == pytest.approx(0.008 + 0.00003 * count * size, rel=1e-6)


def test_one_measured_call_scales_the_guess():
    guess = CostTable()
    table = CostTable([(1, 50, 10 * guess.estimate_s(1, 50))])
    assert table.estimate_s(8, 200) == pytest.approx(10 * guess.estimate_s(8, 200))


def test_the_table_follows_a_machine_that_gets_slower():
    table = CostTable([(1, 50, 0.1)])
    for _ in range(30):
        table.observe(1, 50, 0.3)
    assert table.estimate_s(1, 50) == pytest.approx(0.3, rel=0.01)


@given(calls, rows, frames)
def test_more_work_takes_longer_and_each_further_piece_no_longer_than_the_one_before(seen, count, size):
    table = CostTable(seen)
    for chunks in range(1, 20):
        before, here, after = (table.estimate_s(8, 50 * (chunks + step)) for step in (-1, 0, 1))
        assert here <= after * (1 + 1e-9)
        if chunks > 1:
            assert after - here <= here - before + 1e-9 * after
    assert table.estimate_s(count, size) <= table.estimate_s(count + 1, size) * (1 + 1e-9)


def test_a_size_that_was_unlucky_once_does_not_look_slow_for_ever():
    """It would not be chosen again, and so never be corrected."""
    line = [(count, 50, 0.02 + 0.00003 * 50 * count) for count in (1, 2, 4, 8, 16, 64)]
    table = CostTable([*line, (32, 50, 0.4)])
    assert table.estimate_s(32, 50) == pytest.approx(0.02 + 0.00003 * 1600, rel=0.1)
    assert table.estimate_s(64, 50) == pytest.approx(0.02 + 0.00003 * 3200, rel=0.1)


def test_what_was_not_seen_for_long_gives_way_to_what_is_seen_now():
    table = CostTable((count, 50, 0.01 + 0.00001 * 50 * count) for count in (1, 2, 4, 8, 16, 32, 64))
    for _ in range(1000):
        table.observe(8, 50, 0.05)
        table.observe(16, 50, 0.06)
    assert table.estimate_s(8, 50) == pytest.approx(0.05, rel=0.1)
    assert table.estimate_s(64, 50) >= table.estimate_s(16, 50) >= 0.05


def test_a_hiccup_is_soon_forgotten():
    table = CostTable([(1, 50, 0.1)])
    table.observe(1, 50, 60.0)
    assert table.estimate_s(1, 50) <= 0.1 * (1 + LEARNING_RATE * (OUTLIER - 1)) + 1e-9
    for _ in range(15):
        table.observe(1, 50, 0.1)
    assert table.estimate_s(1, 50) == pytest.approx(0.1, rel=0.05)


def test_noise_averages_out():
    table, draw = CostTable(), random.Random(0)
    for _ in range(200):
        table.observe(2, 100, 0.05 * draw.uniform(0.8, 1.2))
    assert table.estimate_s(2, 100) == pytest.approx(0.05, rel=0.1)


@given(calls, rows, frames)
def test_every_estimate_is_a_positive_time_and_survives_being_written_down(seen, count, size):
    table = CostTable()
    for call in seen:
        table.observe(*call)
    assert 0.0 < table.estimate_s(count, size) < float("inf")
    written = CostTable(table.measured())
    assert CostTable(written.measured()).estimate_s(count, size) == pytest.approx(written.estimate_s(count, size))


@given(st.lists(st.tuples(rows, frames), min_size=3, max_size=10, unique=True), frames)
def test_where_costs_grow_with_work_so_do_estimates(shapes, size):
    table = CostTable()
    for count, length in shapes:
        # What a bucket costs, so that the calls of one bucket agree.
        bucket = (1 << (count - 1).bit_length()) * (-(-length // 50) * 50)
        table.observe(count, length, 0.01 + 0.0001 * bucket)
    estimates = [table.estimate_s(count, size) for count in (1, 2, 4, 8, 16, 32)]
    assert estimates == pytest.approx(sorted(estimates))
