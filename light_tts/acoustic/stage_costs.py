"""What an acoustic call costs: measured at warm-up, corrected by every call. Pure arithmetic; reads no clock.

One thread observes; any may ask for estimates.
"""

from __future__ import annotations

from collections.abc import Iterable

from light_tts.acoustic.concave_fit import Curve, fit_concave
from light_tts.acoustic.row_ladder import padded_rows

FRAMES_PER_BUCKET = 50
LEARNING_RATE = 0.2  # weight of the newest call in its bucket
# A call that took this many times what was expected is taken for a hiccup, and counts as this many.
OUTLIER = 2.0
_HALF_LIFE_CALLS = 300  # a bucket that was not seen for so many calls counts half
_USUAL_ERROR = 0.1  # of a bucket beside the curve; one that is further away counts for less
_GUESS_WEIGHT = 1e-9  # of the guessed line beside one bucket: it decides only what measurements leave open
_KNOTS = tuple(FRAMES_PER_BUCKET * 2.0**power for power in range(1, 10))  # rows x frames at which the curve may bend

Measured = tuple[int, int, float]  # rows, frames of the longest row, seconds


class CostTable:
    """Seconds of one call (flow and vocoder) by rows and frames of the longest row.

    Buckets (rows as they are padded, frames up to whole chunks) hold what was measured. Estimates lie on a curve over
    rows x frames through all of them: a call takes a while whatever is in it, and each further row no longer than the
    one before. A bucket by itself would say less: noise makes a size look slow, it is not chosen again, and so never
    corrected. Before anything was measured, and where measurements leave it open, the curve follows a guessed line.
    """

    def __init__(self, measured: Iterable[Measured] = (), *, call_s: float = 0.02, frame_s: float = 0.0005) -> None:
        self._measured_s = {_bucket(rows, frames): seconds for rows, frames, seconds in measured}
        self._guess = (call_s, frame_s)
        self._num_calls = 0
        self._seen_at_call = dict.fromkeys(self._measured_s, 0)
        self._refit()

    def estimate_s(self, rows: int, frames: int) -> float:
        """Expected seconds of a call."""
        if rows <= 0 or frames <= 0:
            return 0.0
        known_s, size = self._known_s, (rows, frames)
        seconds = known_s.get(size)
        if seconds is None:
            seconds = known_s[size] = self._curve.at(_work(_bucket(rows, frames)))
        return seconds

    def observe(self, rows: int, frames: int, seconds: float) -> None:
        """Learn from a call that has run."""
        if rows <= 0 or frames <= 0:
            return
        bucket = _bucket(rows, frames)
        known_s = self._measured_s.get(bucket)
        if known_s is not None:
            seconds = known_s + LEARNING_RATE * (min(seconds, OUTLIER * known_s) - known_s)
        elif self._measured_s:
            seconds = min(seconds, OUTLIER * self._curve.at(_work(bucket)))
        self._num_calls += 1
        self._seen_at_call[bucket] = self._num_calls
        # Replaced, not changed: others may be reading.
        self._measured_s = {**self._measured_s, bucket: max(seconds, 1e-9)}
        self._refit()

    def measured(self) -> list[Measured]:
        """(rows, frames, seconds) of every bucket seen; `CostTable(measured)` knows the same, but for its age."""
        return [(rows, frames, seconds) for (rows, frames), seconds in sorted(self._measured_s.items())]

    def _refit(self) -> None:
        # In this order: who reads the old curve must not leave what it says among what is known of the new one.
        self._curve = self._fit()
        self._known_s: dict[tuple[int, int], float] = {}  # a planner asks for the same sizes again and again

    def _fit(self) -> Curve:
        call_s, frame_s = self._guess
        points = [
            (_work(bucket), seconds, 0.5 ** ((self._num_calls - self._seen_at_call[bucket]) / _HALF_LIFE_CALLS))
            for bucket, seconds in self._measured_s.items()
        ]
        ratios = [seconds / (call_s + frame_s * work) for work, seconds, _ in points]
        scale = sum(ratios) / len(ratios) if ratios else 1.0
        guessed = [(work, scale * (call_s + frame_s * work), _GUESS_WEIGHT) for work in (*_KNOTS, 2.0 * _KNOTS[-1])]
        curve = fit_concave([*points, *guessed], _KNOTS)
        if len(points) <= 2:
            return curve
        trusted = [
            (work, seconds, weight * _USUAL_ERROR / max(_USUAL_ERROR, abs(seconds / curve.at(work) - 1.0)))
            for work, seconds, weight in points
        ]
        return fit_concave([*trusted, *guessed], _KNOTS)


def _bucket(rows: int, frames: int) -> tuple[int, int]:
    """Rows as they are padded, frames up to the next 50."""
    return padded_rows(rows), -(-frames // FRAMES_PER_BUCKET) * FRAMES_PER_BUCKET


def _work(bucket: tuple[int, int]) -> float:
    return float(bucket[0] * bucket[1])
