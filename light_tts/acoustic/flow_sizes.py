"""Which sizes of flow calls are recorded, and how rows are shared out among them. Pure arithmetic; imports no torch.

A call takes a while whatever is in it, and then so much for each frame, padding included. Rows therefore run together
in the cheapest recorded sizes that hold them: in one with padding, or in several smaller ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from light_tts.acoustic.row_ladder import BETWEEN, ROWS

ANY_PAST = -1  # of a body that reads pages in place
MOST_ROWS = 64  # of one call
MOST_FRAMES = 12_800  # rows x frames of one call, which bounds what it takes of the memory
CALL_FRAMES = 600  # a recorded call takes about as long as so many frames besides its own; measured when it is recorded
EAGER_FRAMES = 12_000  # one that is not recorded: launching it takes the host 0.2 s and more
_GROWTH = 1.25  # what a call costs at most more than one of the exact length, with the same number of rows
_CROWD_CHUNKS = 2  # of the longest call for which numbers of rows between powers of two are recorded
_EXACT_CHUNKS = 4  # calls of up to so many chunks have no padding in their rows
_PLAIN_PAST = 32  # pages of past that recorded bodies see which do not read pages in place
_MOST_PLAIN_CHUNKS = 24  # and their longest rows: they make tables of frames x frames
_FAR_SIZES = ((1, 2), (4, 2), (1, 6))  # rows and chunks after more past than the others see


class CallSize(NamedTuple):
    """What the shapes of a flow call depend on.

    rows:        sequences.
    chunks:      new tokens of each, in whole chunks.
    past_pages:  pages of past that the token-to-mel body can see, or ANY_PAST; the estimator sees any number.
    """

    rows: int
    chunks: int
    past_pages: int


class BodySight(NamedTuple):
    """What a token-to-mel body sees of the past.

    attends:       it has attention; otherwise every size takes any past.
    reach_chunks:  chunks, old and new, within which it reads pages in place (ANY_PAST); 0: it never does.
    most_chunks:   of an utterance with its prompt.
    """

    attends: bool
    reach_chunks: int
    most_chunks: int

    def takes(self, size: CallSize, past: int) -> bool:
        """True when rows after so many chunks can run in a call of this size."""
        if not self.attends:
            return True
        if size.past_pages == ANY_PAST:
            return past + size.chunks <= self.reach_chunks
        return past <= size.past_pages

    def pages(self, chunks: int, past: int) -> int:
        """The `past_pages` of a size just for rows of so many new chunks after so many old ones."""
        if not self.attends:
            return 0
        return ANY_PAST if past + chunks <= self.reach_chunks else past


class RowSize(NamedTuple):
    """New chunks of a row, the last one perhaps in part, and chunks that it has kept."""

    chunks: int
    past: int


def catalogue(sight: BodySight, *, chunk_frames: int, max_rows: int) -> list[CallSize]:
    """Sizes to be recorded, the most useful first: short calls are those that launches cost most."""
    most_rows = min(max_rows, MOST_ROWS)
    longest, pages = min(sight.most_chunks, MOST_FRAMES // chunk_frames), _most_pages(sight)
    if sight.attends:
        longest = min(longest, sight.reach_chunks or _MOST_PLAIN_CHUNKS)
    sizes = [
        CallSize(rows, chunks, pages)
        for rows in _row_ladder(most_rows)
        for chunks in _chunk_ladder(rows, min(longest, MOST_FRAMES // (rows * chunk_frames)), chunk_frames)
        if chunks <= _CROWD_CHUNKS or rows not in BETWEEN or rows == most_rows
    ]
    sizes.sort(key=lambda size: call_cost(size, chunk_frames))
    if sight.attends:
        far = [(rows, chunks) for rows, chunks in _FAR_SIZES if rows <= most_rows and chunks <= sight.most_chunks]
        sizes += [CallSize(rows, chunks, sight.most_chunks) for rows, chunks in far]
    return sizes


def quick_catalogue(sight: BodySight, *, max_rows: int, most_chunks: int) -> list[CallSize]:
    """Sizes of the small calls that run beside others: each number of chunks, each of rows on the ladder."""
    pages = _most_pages(sight)
    return [CallSize(rows, chunks, pages) for chunks in range(1, most_chunks + 1) for rows in _row_ladder(max_rows)]


def _most_pages(sight: BodySight) -> int:
    """The `past_pages` of sizes that take nearly any past."""
    if not sight.attends:
        return 0
    return ANY_PAST if sight.reach_chunks else min(_PLAIN_PAST, sight.most_chunks)


def call_cost(size: CallSize, chunk_frames: int) -> int:
    """What a recorded call of this size costs, in frames."""
    return CALL_FRAMES + size.rows * size.chunks * chunk_frames


def _row_ladder(most: int) -> list[int]:
    """Up to the largest: what lies between is padded, or shared out among several calls."""
    return [*(rows for rows in ROWS if rows < most), most]


def _chunk_ladder(rows: int, most: int, chunk_frames: int) -> list[int]:
    """The lengths of most hops; beyond, as few as the growth of the costs allows."""
    ladder = list(range(1, min(_EXACT_CHUNKS, most) + 1))
    while ladder and ladder[-1] < most:
        shortest = ladder[-1] + 1
        cost = CALL_FRAMES + rows * shortest * chunk_frames
        longest = max(shortest, int(_GROWTH * cost - CALL_FRAMES) // (rows * chunk_frames))
        ladder.append(most if longest > 0.9 * most else longest)
    return ladder


def telling_sizes(sizes: Iterable[CallSize]) -> list[CallSize]:
    """One size of each magnitude, that of most rows: what they cost says what all cost. The smallest first."""
    by_magnitude: dict[int, CallSize] = {}
    for size in sorted(sizes):
        by_magnitude[(size.rows * size.chunks).bit_length()] = size
    return [size for _, size in sorted(by_magnitude.items())]


class SizeTable:
    """The recorded sizes, and what rows cost in them. One thread.

    cost_of:  what a recorded call of so many frames, padding included, costs, in any unit; default: frames.
    """

    def __init__(
        self, sight: BodySight, chunk_frames: int, cost_of: Callable[[int], float] = lambda frames: CALL_FRAMES + frames
    ) -> None:
        self.sight = sight
        self._chunk_frames = chunk_frames
        self._cost_of = cost_of
        self._sizes: list[CallSize] = []
        self._by_cost: list[tuple[float, CallSize]] = []
        self._rows: frozenset[int] = frozenset()  # of recorded sizes
        self._found = lru_cache(maxsize=1 << 14)(self._find)

    def add(self, sizes: Iterable[CallSize]) -> None:
        """Calls of these sizes have been recorded."""
        self._sizes += sizes
        self._sort()

    def price(self, cost_of: Callable[[int], float]) -> None:
        """Calls cost something else, as has been measured: never less for more frames."""
        self._cost_of = cost_of
        self._sort()

    def _sort(self) -> None:
        self._by_cost = [(self._cost_of(size.rows * size.chunks * self._chunk_frames), size) for size in self._sizes]
        self._by_cost.sort(key=lambda entry: (entry[0], entry[1].rows * entry[1].chunks, entry[1].past_pages))
        self._rows = frozenset(size.rows for size in self._sizes)
        self._found.cache_clear()

    def cheapest(self, rows: int, chunks: int, past: int) -> tuple[float, CallSize | None]:
        """(cost, the cheapest recorded size that so many rows fit into); None: they must be computed."""
        cost, size = self._found(rows, chunks, 0)  # which holds nearly any past, and is asked for again and again
        if size is None or self.sight.takes(size, past):
            return cost, size
        return self._found(rows, chunks, past)

    def _find(self, rows: int, chunks: int, past: int) -> tuple[float, CallSize | None]:
        for cost, size in self._by_cost:
            has_room = size.rows >= rows and size.chunks >= chunks
            if has_room and self.sight.takes(size, past):
                return cost, size
        return self._cost_of(EAGER_FRAMES + rows * chunks * self._chunk_frames), None

    def groups(self, rows: Sequence[RowSize]) -> list[list[int]]:
        """Indices of the rows that run together, so that all calls together cost least. Rows of a call are alike."""
        order = sorted(range(len(rows)), key=lambda index: rows[index], reverse=True)
        costs, begins = [0.0], [0]  # of the first rows of the order: what they cost, where their last call begins
        for end in range(1, len(order) + 1):
            past, best = 0, None
            for begin in range(end - 1, max(0, end - MOST_ROWS) - 1, -1):
                first = rows[order[begin]]
                past = max(past, first.past)
                if end - begin > 1 and (end - begin) * first.chunks * self._chunk_frames > MOST_FRAMES:
                    break
                if begin and self._rows and end - begin not in self._rows:
                    continue  # padded it would cost as much as with more rows
                cost = costs[begin] + self.cheapest(end - begin, first.chunks, past)[0]
                if best is None or cost < best[0]:
                    best = cost, begin
            assert best is not None, "a row by itself can always be computed"
            costs.append(best[0])
            begins.append(best[1])
        groups, end = [], len(order)
        while end:
            groups.append(order[begins[end] : end])
            end = begins[end]
        return groups[::-1]
