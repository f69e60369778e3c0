"""What an acoustic call costs: measured once, corrected by every call. Pure arithmetic; reads no clock."""

from __future__ import annotations

from dataclasses import dataclass, field

FRAMES_PER_BUCKET = 50
LEARNING_RATE = 0.2  # weight of the newest call in its bucket


@dataclass
class CostTable:
    """Seconds of one call (flow and vocoder) by rows and frames of the longest row.

    call_s, frame_s:  first guess, a line: call_s + frame_s * rows * frames. A bucket that was measured wins over the
                      line; one that was not is guessed from the nearest measured one, scaled along the line.
    """

    call_s: float = 0.02
    frame_s: float = 0.0005
    _measured_s: dict[tuple[int, int], float] = field(default_factory=dict)

    def estimate_s(self, rows: int, frames: int) -> float:
        """Expected seconds of a call."""
        if rows <= 0 or frames <= 0:
            return 0.0
        bucket = _bucket(rows, frames)
        if bucket in self._measured_s:
            return self._measured_s[bucket]
        if not self._measured_s:
            return self._line_s(*bucket)
        nearest = min(self._measured_s, key=lambda known: _distance(known, bucket))
        return self._measured_s[nearest] * self._line_s(*bucket) / self._line_s(*nearest)

    def observe(self, rows: int, frames: int, seconds: float) -> None:
        """Learn from a call that has run."""
        if rows <= 0 or frames <= 0:
            return
        bucket = _bucket(rows, frames)
        known = self._measured_s.get(bucket)
        self._measured_s[bucket] = seconds if known is None else known + LEARNING_RATE * (seconds - known)

    def measured(self) -> list[tuple[int, int, float]]:
        """(rows, frames, seconds) of every bucket seen, for reports."""
        return [(rows, frames, seconds) for (rows, frames), seconds in sorted(self._measured_s.items())]

    def _line_s(self, rows: int, frames: int) -> float:
        return self.call_s + self.frame_s * rows * frames


def _bucket(rows: int, frames: int) -> tuple[int, int]:
    """Rows up to the next power of two, frames up to the next 50."""
    return 1 << (rows - 1).bit_length(), -(-frames // FRAMES_PER_BUCKET) * FRAMES_PER_BUCKET


def _distance(known: tuple[int, int], wanted: tuple[int, int]) -> float:
    work = known[0] * known[1], wanted[0] * wanted[1]
    return abs(work[0] - work[1]) / max(work) + 0.1 * abs(known[0] - wanted[0])
