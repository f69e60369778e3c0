"""Numbers of rows of which flow calls are made up: calls of any other number are padded to the next. Imports no torch.

Fewer rows than sixteen cost hardly less than sixteen; beyond, powers of two alone would waste up to half of a call.
"""

from __future__ import annotations

from bisect import bisect_left

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
BETWEEN = frozenset({24, 48})  # recorded for short hops alone, which those of crowds are


def padded_rows(rows: int) -> int:
    """The number of rows of a call that so many fit into; beyond the ladder powers of two."""
    if rows > ROWS[-1]:
        return 1 << (rows - 1).bit_length()
    return ROWS[bisect_left(ROWS, rows)]
