"""What an acoustic call costs: measured at warm-up, corrected by every call. Pure arithmetic; reads no clock.

One thread observes; any may ask for estimates.
"""

from __future__ import annotations

from collections.abc import Iterable

FRAMES_PER_BUCKET = 50
LEARNING_RATE = 0.2  # weight of the newest call in its bucket
# A call that took this many times what was expected is taken for a hiccup, and counts as this many. With more, a single
# one would make a smaller size look better, after which nothing would correct it.
OUTLIER = 2.0

Measured = tuple[int, int, float]  # rows, frames of the longest row, seconds


class CostTable:
    """Seconds of one call (flow and vocoder) by rows and frames of the longest row.

    A bucket that was measured wins. One that was not is guessed from the nearest measured one, scaled along the line
    `call_s + frame_s * rows * frames` through all that was measured; before anything was, along a guessed line. No call
    costs more than a larger one did: an unlucky measurement, after which its size was never chosen again, would stay.
    """

    def __init__(self, measured: Iterable[Measured] = (), *, call_s: float = 0.02, frame_s: float = 0.0005) -> None:
        self._measured_s = {_bucket(rows, frames): seconds for rows, frames, seconds in measured}
        self._guess = (call_s, frame_s)
        self._line: tuple[float, float] | None = None
        self._estimates_s: dict[tuple[int, int], float] = {}

    def estimate_s(self, rows: int, frames: int) -> float:
        """Expected seconds of a call."""
        if rows <= 0 or frames <= 0:
            return 0.0
        bucket = _bucket(rows, frames)
        estimates_s = self._estimates_s
        if bucket not in estimates_s:
            measured_s = self._measured_s
            known_s = measured_s[bucket] if bucket in measured_s else self._guess_s(bucket)
            rows, frames = bucket
            larger_s = (seconds for known, seconds in measured_s.items() if known[0] >= rows and known[1] >= frames)
            estimates_s[bucket] = min([known_s, *larger_s])
        return estimates_s[bucket]

    def observe(self, rows: int, frames: int, seconds: float) -> None:
        """Learn from a call that has run."""
        if rows <= 0 or frames <= 0:
            return
        bucket = _bucket(rows, frames)
        known = self._measured_s.get(bucket)
        if known is not None:
            seconds = known + LEARNING_RATE * (min(seconds, OUTLIER * known) - known)
        # Replaced, not changed: others may be reading.
        self._measured_s = {**self._measured_s, bucket: seconds}
        self._estimates_s = {}
        self._line = None

    def measured(self) -> list[Measured]:
        """(rows, frames, seconds) of every bucket seen; `CostTable(measured)` is this table again."""
        return [(rows, frames, seconds) for (rows, frames), seconds in sorted(self._measured_s.items())]

    def _guess_s(self, bucket: tuple[int, int]) -> float:
        measured_s, line = self._measured_s, self._line
        if not measured_s:
            return _along(self._guess, bucket)
        if line is None:
            line = self._line = _fit(measured_s, self._guess)
        nearest = min(measured_s, key=lambda known: (_distance(known, bucket), known))
        return measured_s[nearest] * _along(line, bucket) / _along(line, nearest)


def _bucket(rows: int, frames: int) -> tuple[int, int]:
    """Rows up to the next power of two, frames up to the next 50."""
    return 1 << (rows - 1).bit_length(), -(-frames // FRAMES_PER_BUCKET) * FRAMES_PER_BUCKET


def _distance(known: tuple[int, int], wanted: tuple[int, int]) -> float:
    work = known[0] * known[1], wanted[0] * wanted[1]
    return abs(work[0] - work[1]) / max(work) + 0.1 * abs(known[0] - wanted[0])


def _along(line: tuple[float, float], bucket: tuple[int, int]) -> float:
    return line[0] + line[1] * bucket[0] * bucket[1]


def _fit(measured_s: dict[tuple[int, int], float], guess: tuple[float, float]) -> tuple[float, float]:
    """The line with the least squared relative error; what cannot be told from few points keeps the guess's shape."""
    points = [(float(rows * frames), max(seconds, 1e-9)) for (rows, frames), seconds in measured_s.items()]
    weights = [1.0 / seconds**2 for _, seconds in points]
    total = sum(weights)
    mean_x = sum(weight * x for weight, (x, _) in zip(weights, points, strict=True)) / total
    mean_y = sum(weight * y for weight, (_, y) in zip(weights, points, strict=True)) / total
    spread = sum(weight * (x - mean_x) ** 2 for weight, (x, _) in zip(weights, points, strict=True))
    if spread > 0.0:
        slope = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, points, strict=True)) / spread
        intercept = mean_y - slope * mean_x
        if slope > 0.0 and intercept >= 0.0:
            return intercept, slope
        if slope > 0.0:
            return 0.0, mean_y / mean_x
    scale = mean_y / (guess[0] + guess[1] * mean_x)
    return scale * guess[0], scale * guess[1]
