"""The curve of what work costs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_tts.acoustic.concave_fit import Curve, fit_concave

KNOTS = (100.0, 200.0, 400.0, 800.0, 1600.0)

points = st.lists(st.tuples(st.floats(1, 5000), st.floats(1e-3, 10.0), st.floats(0.1, 10.0)), min_size=1, max_size=30)


def test_a_curve_is_straight_between_its_points_and_beyond_the_last():
    curve = Curve([0.0, 100.0, 200.0], [1.0, 3.0, 4.0])
    assert [curve.at(work) for work in (0, 50, 100, 150, 200, 400)] == pytest.approx([1.0, 2.0, 3.0, 3.5, 4.0, 6.0])


@given(points)
def test_it_never_falls_and_bends_one_way(measured):
    curve = fit_concave(measured, KNOTS)
    values = [curve.at(work) for work in range(0, 6000, 50)]
    steps = np.diff(values)
    assert values[0] >= 0.0
    assert (steps >= -1e-9).all()
    assert (np.diff(steps) <= 1e-9).all()


@given(st.floats(0, 1), st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_a_curve_of_this_kind_is_found_again(fixed, weights):
    def truth(work: float) -> float:
        bends = sum(weight * min(work, knot) for weight, knot in zip(weights, KNOTS, strict=False))
        return 0.1 + fixed + weights[-1] * work + bends

    works = (25, 50, 150, 300, 600, 1200, 2400, 4800)
    curve = fit_concave([(work, truth(work), 1.0) for work in works], KNOTS)
    for work in works:
        assert curve.at(work) == pytest.approx(truth(work), rel=1e-3)


def test_noise_that_would_make_a_larger_call_look_cheaper_is_shared_out():
    curve = fit_concave([(100.0, 0.10, 1.0), (400.0, 0.30, 1.0), (800.0, 0.20, 1.0)], KNOTS)
    assert 0.2 < curve.at(400.0) <= curve.at(800.0) < 0.3


def test_what_weighs_more_is_met_more_closely():
    curve = fit_concave([(100.0, 1.0, 100.0), (100.0, 2.0, 1.0)], KNOTS)
    assert curve.at(100.0) == pytest.approx(1.0, abs=0.05)
