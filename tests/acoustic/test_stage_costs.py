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
    assert table.estimate_s(4, 50) == table.estimate_s(3, 44) == 0.1


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


def test_no_call_costs_more_than_a_larger_one_did():
    """A size that was measured too slow once would not be chosen again, and so never be corrected."""
    costs = CostTable([(16, 200, 0.35), (32, 250, 0.27), (64, 100, 0.2)])
    assert costs.estimate_s(16, 200) == 0.27
    assert costs.estimate_s(64, 100) == 0.2
    assert costs.estimate_s(8, 100) <= 0.2


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
    estimate_s = table.estimate_s(count, size)
    assert 0.0 < estimate_s < float("inf")
    assert CostTable(table.measured()).estimate_s(count, size) == pytest.approx(estimate_s)


@given(st.lists(st.tuples(rows, frames), min_size=3, max_size=10, unique=True), frames)
def test_where_costs_grow_with_work_so_do_estimates(shapes, size):
    table = CostTable()
    for count, length in shapes:
        # What a bucket costs, so that the calls of one bucket agree.
        bucket = (1 << (count - 1).bit_length()) * (-(-length // 50) * 50)
        table.observe(count, length, 0.01 + 0.0001 * bucket)
    estimates = [table.estimate_s(count, size) for count in (1, 2, 4, 8, 16, 32)]
    assert estimates == pytest.approx(sorted(estimates))
