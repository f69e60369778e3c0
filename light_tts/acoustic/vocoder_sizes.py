"""Sizes of vocoder calls: which are recorded ahead, and which of them a call is padded to."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

MOST_FRAMES = 4096  # of one call, padding included: what bounds the memory of its activations
ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
_MOST_PADDED = 1.5  # a recorded call that is larger than that is not used in place of one of the right size

Size = tuple[int, int]  # rows, frames of each


@dataclass(frozen=True)
class SizeLadder:
    """Every number of rows with every length, as far as both together stay within `MOST_FRAMES`.

    frames:  lengths, ascending.
    """

    frames: tuple[int, ...]

    def length_for(self, frames: int) -> int:
        """Length to which a row of so many frames is padded; beyond the ladder its own."""
        index = bisect_left(self.frames, frames)
        return self.frames[index] if index < len(self.frames) else frames

    def sizes(self, max_rows: int = ROWS[-1]) -> list[Size]:
        """All sizes that calls of up to so many rows are padded to, the largest first."""
        most = rows_for(min(max_rows, ROWS[-1]))
        pairs = [(rows, frames) for rows in ROWS for frames in self.frames if rows <= most]
        return sorted((pair for pair in pairs if pair[0] * pair[1] <= MOST_FRAMES), key=_work, reverse=True)


def rows_for(rows: int) -> int:
    """Number of rows to which a call of so many is padded."""
    return ROWS[bisect_left(ROWS, rows)]


def recorded_size(sizes: Iterable[Size], wanted: Size) -> Size | None:
    """The smallest of the recorded sizes that a call fits into without much padding; None: there is none."""
    fitting = [
        size
        for size in sizes
        if size[0] >= wanted[0] and size[1] >= wanted[1] and _work(size) <= _MOST_PADDED * _work(wanted)
    ]
    return min(fitting, key=_work, default=None)


def _work(size: Size) -> int:
    return size[0] * size[1]
