"""The fixed shapes of recorded steps, and where in one packed buffer each of their inputs lies."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from light_tts.kernels.packed_attention import TILE_ROWS

BLOCKED_EDGES = 4  # of the two ranges of ids that must not be drawn


class StepShape(NamedTuple):
    """Of a recorded step: rows, draws, and tiles of rows that are attended together; no tiles: every row decodes."""

    num_rows: int
    num_draws: int
    num_tiles: int

    @classmethod
    def decoding(cls, num_rows: int) -> StepShape:
        """One row of each sequence, and a draw after each."""
        return cls(num_rows, num_rows, 0)

    @classmethod
    def packed(cls, num_rows: int, most_sequences: int) -> StepShape:
        """Rows of up to `most_sequences` sequences, any number of each; each may have one draw."""
        num_sequences = min(num_rows, most_sequences)
        return cls(num_rows, num_sequences, num_rows // TILE_ROWS + num_sequences)


class Places(NamedTuple):
    """Parts of the buffer of int64, on either side: the width of the table of pages, these, then the table.

    Each begins at 16 bytes: kernels are compiled anew for pointers that are aligned otherwise.
    """

    rows: slice  # [4, N] rows, sources, positions, slots
    draws: slice  # [3, S] sources, targets, steps
    fixed: slice  # [S, 4] key, top_k, greedy, numbers
    blocked: slice  # [S, 4]
    window: slice  # [S, W]
    selected: slice  # [S], only with tiles
    tiles: slice  # [M, 4]

    @property
    def table(self) -> int:
        """Where the pages begin."""
        return _aligned(self.tiles.stop)


@lru_cache(maxsize=1024)
def places_of(shape: StepShape, win_size: int) -> Places:
    """Where the inputs of a step of this shape lie, which looks back on `win_size` ids."""
    draws, tiles = shape.num_draws, shape.num_tiles
    selected = draws if tiles else 0
    lengths = 4 * shape.num_rows, 3 * draws, 4 * draws, BLOCKED_EDGES * draws, win_size * draws, selected, 4 * tiles
    begin, parts = 1, []
    for length in lengths:
        parts.append(slice(_aligned(begin), _aligned(begin) + length))
        begin = parts[-1].stop
    return Places(*parts)


def _aligned(place: int) -> int:
    """The next place in a buffer of int64 that is a multiple of 16 bytes."""
    return place + place % 2
