"""A curve through noisy measurements of what work costs: never falling, and each further piece costs no more than the
one before. Pure arithmetic.

The curve is a sum of `1`, `work` and `min(work, knot)` with weights that are not negative, which gives exactly the
curves of that kind that bend at the knots. The weights have the least squared relative error (non-negative least
squares; Lawson and Hanson 1974, chapter 23).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

_ENOUGH = 1e-12  # of the largest gradient at the start: with less, a weight stays zero


class Curve:
    """Straight between its points, and beyond the last one as before it."""

    def __init__(self, works: Sequence[float], values: Sequence[float]) -> None:
        """Points by ascending work, the first at 0; at least two."""
        self._works = list(works)
        self._values = list(values)
        self._slopes = [
            (self._values[index + 1] - self._values[index]) / (self._works[index + 1] - self._works[index])
            for index in range(len(self._works) - 1)
        ]

    def at(self, work: float) -> float:
        """Its value there."""
        index = min(bisect_right(self._works, work), len(self._slopes)) - 1
        return self._values[index] + self._slopes[index] * (work - self._works[index])


def fit_concave(points: Sequence[tuple[float, float, float]], knots: Sequence[float]) -> Curve:
    """The curve of least weighted relative error.

    points:  (work, value, weight) of measurements, all positive.
    knots:   where it may bend, ascending, above 0.
    """
    works, values, weights = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    edges = np.array([0.0, *knots, 2.0 * knots[-1]])
    basis = _basis(works, knots) * (np.sqrt(weights) / values)[:, None]
    scale = np.linalg.norm(basis, axis=0)
    solution = _non_negative(basis / scale, np.sqrt(weights)) / scale
    return Curve(edges.tolist(), (_basis(edges, knots) @ solution).tolist())


def _basis(works: np.ndarray, knots: Sequence[float]) -> np.ndarray:
    return np.stack([np.ones_like(works), works, *(np.minimum(works, knot) for knot in knots)], axis=1)


def _non_negative(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """x >= 0 with the least |matrix x - target|."""
    count = matrix.shape[1]
    x, is_free = np.zeros(count), np.zeros(count, dtype=bool)
    gradient = matrix.T @ target
    enough = _ENOUGH * float(np.abs(gradient).max())
    for _ in range(3 * count):
        candidates = np.where(is_free, -np.inf, gradient)
        if candidates.max() <= enough:
            break
        is_free[int(candidates.argmax())] = True
        x = _settle(matrix, target, x, is_free)
        gradient = matrix.T @ (target - matrix @ x)
    return x


def _settle(matrix: np.ndarray, target: np.ndarray, x: np.ndarray, is_free: np.ndarray) -> np.ndarray:
    """The least squares over the free weights; those that would become negative stop at 0 and are free no more."""
    while True:
        wanted = np.zeros_like(x)
        wanted[is_free] = np.linalg.lstsq(matrix[:, is_free], target, rcond=None)[0]
        negative = is_free & (wanted <= 0.0)
        if not negative.any():
            return wanted
        step = float((x[negative] / (x[negative] - wanted[negative] + 1e-300)).min())
        x = x + step * (wanted - x)
        is_free &= x > 1e-15
        x[~is_free] = 0.0
