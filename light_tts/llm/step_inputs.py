"""What a recorded step must know, packed into one buffer of fixed place on the device.

A step is padded to a shape that was recorded. A padding row sees nothing but itself and leaves its key and value in a
page that nobody reads; a padding draw leaves its id where nobody looks.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import compress
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from light_tts.kernels.draw import DrawRows
from light_tts.kernels.embedding import RowInputs
from light_tts.kernels.packed_attention import TILE_ROWS, PackedPages
from light_tts.kernels.paged_decode import DecodePages
from light_tts.llm.decoding_group import NO_AHEAD_ROWS, AheadRows
from light_tts.llm.scheduler import Chunk
from light_tts.llm.sequence import Sequence
from light_tts.llm.sequence_table import SequenceTable

_BLOCKED_EDGES = 4

_num_computed_of = attrgetter("num_computed")


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


class StepViews(NamedTuple):
    """Inputs of a step of N rows and S draws, as views of the buffer on the device.

    selected:  [S] int64 rows after which an id is drawn; None: after every row.
    """

    rows: RowInputs
    pages: DecodePages | PackedPages
    selected: Tensor | None
    draws: DrawRows


class _Columns(NamedTuple):
    """Parts of the packed buffer for one shape, on either side: the width of the table, these, then the table.

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
def _columns(shape: StepShape, win_size: int) -> _Columns:
    draws, tiles = shape.num_draws, shape.num_tiles
    selected = draws if tiles else 0
    lengths = 4 * shape.num_rows, 3 * draws, 4 * draws, _BLOCKED_EDGES * draws, win_size * draws, selected, 4 * tiles
    begin, parts = 1, []
    for length in lengths:
        parts.append(slice(_aligned(begin), _aligned(begin) + length))
        begin = parts[-1].stop
    return _Columns(*parts)


def _aligned(place: int) -> int:
    """The next place in a buffer of int64 that is a multiple of 16 bytes."""
    return place + place % 2


class _Chunks(NamedTuple):
    """The fields of all chunks of a step, each as a column."""

    sequences: tuple[Sequence, ...]
    starts: np.ndarray
    counts: np.ndarray
    samples: np.ndarray
    is_ahead: np.ndarray


_NO_CHUNKS = _Chunks((), *(np.zeros(0, dtype) for dtype in (np.int64, np.int64, bool, bool)))


class StepInputs:
    """Two buffers on the host, used in turn, and their twin on the device. Used by the engine's thread alone.

    shapes:     that will be filled.
    drawn:      ids that the device has drawn; the last place takes those of padding draws.
    dump_slot:  where padding rows leave their keys and values.
    """

    def __init__(
        self,
        shapes: list[StepShape],
        table: SequenceTable,
        drawn: Tensor,
        *,
        block_tokens: int,
        win_size: int,
        dump_slot: int,
    ) -> None:
        self._table, self._drawn = table, drawn
        self._block_tokens, self._win_size = block_tokens, win_size
        device = drawn.device
        length = max(_columns(s, win_size).table + s.num_draws * table.most_pages for s in shapes)
        is_cuda = device.type == "cuda"
        self._hosts = [torch.zeros(length, dtype=torch.int64, pin_memory=is_cuda) for _ in range(2)]
        self._numbers = [host.numpy() for host in self._hosts]
        self._device = torch.zeros(length, dtype=torch.int64, device=device)
        self._sent = [torch.cuda.Event() if is_cuda else None for _ in range(2)]
        self._turn = 0
        # Those who decode together stay the same for many steps.
        self._together, self._first_step = _NO_CHUNKS, 0
        self._padding_row = np.array([[0], [-1], [0], [dump_slot]])
        self._padding_draw = np.array([[-1], [len(drawn) - 1], [0]])

    def views(self, shape: StepShape) -> StepViews:
        """Inputs of a step of this shape on the device."""
        places, buffer = _columns(shape, self._win_size), self._device
        rows, row_sources, positions, slots = buffer[places.rows].view(4, -1)
        sources, targets, steps = buffer[places.draws].view(3, -1)
        fixed = buffer[places.fixed].view(-1, 4)
        table, width = buffer[places.table :], buffer[:1]
        pages: DecodePages | PackedPages = DecodePages(positions, slots, table, width)
        if shape.num_tiles:
            pages = PackedPages(slots, buffer[places.tiles].view(-1, 4), table, width)
        return StepViews(
            rows=RowInputs(rows, row_sources, positions, self._drawn),
            pages=pages,
            selected=buffer[places.selected] if shape.num_tiles else None,
            draws=DrawRows(
                sources=sources,
                targets=targets,
                keys=fixed[:, 0],
                steps=steps,
                top_k=fixed[:, 1],
                greedy=fixed[:, 2],
                numbers=fixed.view(torch.float32)[:, 6:],
                blocked=buffer[places.blocked].view(-1, _BLOCKED_EDGES),
                window=buffer[places.window].view(-1, self._win_size),
                drawn=self._drawn,
            ),
        )

    def fill(self, chunks: list[Chunk], shape: StepShape, first_target: int, ahead: AheadRows = NO_AHEAD_ROWS) -> int:
        """Write rows and chunks, chunks of one row first, padded to `shape`, and send them to the device.

        first_target:  place of the first drawn id; the others follow. Returns how many there are.
        """
        self._turn ^= 1
        sent = self._sent[self._turn]
        if sent is not None:
            sent.synchronize()
        host, places = self._numbers[self._turn], _columns(shape, self._win_size)
        sequences, starts, counts, samples, is_ahead = self._columns_of(ahead, chunks)
        lines = self._table.look_up(sequences)
        known = None if is_ahead.all() else [0] * len(ahead.sequences) + _rows_of(chunks)
        sources = np.where(is_ahead, self._table.drawn_at[lines], -1)
        if not shape.num_tiles:
            self._write_rows(host[places.rows], known, starts, lines, slice(len(sequences)), sources)
            num_draws = self._write_draws(host, places, sequences, lines, sources, first_target)
        else:
            firsts = np.cumsum(counts) - counts
            positions = np.repeat(starts - firsts, counts) + np.arange(counts.sum())
            self._write_rows(host[places.rows], known, positions, np.repeat(lines, counts), firsts, sources)
            _write_tiles(host[places.tiles].reshape(-1, 4), starts, counts, firsts)
            drawing = tuple(compress(sequences, samples))
            selected = host[places.selected]
            selected[: len(drawing)] = (firsts + counts - 1)[samples]
            selected[len(drawing) :] = 0
            num_draws = self._write_draws(host, places, drawing, lines[samples], sources[samples], first_target)
        end = self._write_table(host, places, lines, shape)
        self._device[:end].copy_(self._hosts[self._turn][:end], non_blocking=True)
        if sent is not None:
            sent.record()
        return num_draws

    def forget_together(self) -> None:
        """Keep no sequence that has ended."""
        self._together = _NO_CHUNKS

    def _columns_of(self, ahead: AheadRows, chunks: list[Chunk]) -> _Chunks:
        """Sequences, starts, numbers of rows, which draw and which wait for a code, of both one after the other."""
        together = self._together_of(ahead)
        if not chunks:
            return together
        sequences, *columns = zip(*chunks, strict=True)
        return _Chunks(
            together.sequences + sequences,
            *(
                np.concatenate([ours, np.array(theirs, dtype=ours.dtype)])
                for ours, theirs in zip(together[1:], columns, strict=True)
            ),
        )

    def _together_of(self, ahead: AheadRows) -> _Chunks:
        """The rows of those that decode together as chunks."""
        if ahead.sequences is not self._together.sequences:
            starts = np.fromiter(map(_num_computed_of, ahead.sequences), np.int64, len(ahead.sequences))
            ones = np.ones_like(starts, dtype=bool)
            self._together = _Chunks(ahead.sequences, starts, np.ones_like(starts), ones, ones)
            self._first_step = ahead.step
        return self._together._replace(starts=self._together.starts + (ahead.step - self._first_step))

    def _write_rows(
        self,
        part: np.ndarray,
        known: list[int] | None,
        positions: np.ndarray,
        lines: np.ndarray,
        firsts: np.ndarray | slice,
        sources: np.ndarray,
    ) -> None:
        """Write what each row is and where it lies.

        known:    [N] rows of the joint table; None: all are on the device, as are those with a source.
        lines:    [N] of the rows' sequences.
        firsts:   the first row of each chunk.
        sources:  of these.
        """
        rows, used = part.reshape(4, -1), len(positions)
        rows[0, :used] = 0 if known is None else known
        rows[1, :used] = -1
        rows[1, firsts] = sources
        rows[2, :used] = positions
        pages, places = np.divmod(positions, self._block_tokens)
        rows[3, :used] = self._table.pages[lines, pages] * self._block_tokens + places
        if used < rows.shape[1]:
            rows[:, used:] = self._padding_row

    def _write_draws(
        self,
        host: np.ndarray,
        places: _Columns,
        drawing: tuple[Sequence, ...],
        lines: np.ndarray,
        sources: np.ndarray,
        first_target: int,
    ) -> int:
        count, table = len(drawing), self._table
        is_ahead = sources >= 0
        draws = host[places.draws].reshape(3, -1)
        steps = table.counts[lines] + is_ahead
        draws[0, :count] = sources
        draws[1, :count] = np.arange(first_target, first_target + count)
        draws[2, :count] = steps
        fixed = host[places.fixed].reshape(-1, 4)
        fixed[:count] = table.fixed[lines]
        blocked = host[places.blocked].reshape(-1, _BLOCKED_EDGES)
        blocked[:count] = table.blocked(drawing, lines, steps)
        window = host[places.window].reshape(-1, self._win_size)
        history = table.window[lines]
        # What is drawn last comes from the device.
        history[is_ahead, :-1] = history[is_ahead, 1:]
        window[:count] = history
        if count < len(fixed):
            draws[:, count:] = self._padding_draw
            fixed[count:] = _PADDING_DRAW
            blocked[count:] = 0
            window[count:] = -1
        table.drawn_at[lines] = draws[1, :count]
        return count

    def _write_table(self, host: np.ndarray, places: _Columns, lines: np.ndarray, shape: StepShape) -> int:
        """Write the pages, one line a sequence; returns where the buffer ends."""
        width = self._table.widest(lines)
        host[0] = width
        end = places.table + shape.num_draws * width
        pages = host[places.table : end].reshape(-1, width)
        pages[: len(lines)] = self._table.pages[lines, :width]
        pages[len(lines) :] = self._table.zero_page
        return end


def _padding_draw() -> np.ndarray:
    """Key, top_k, greedy, and top_p and temperature of a draw that takes the most probable id."""
    values = np.array([0, 1, 0, 0], dtype=np.int64)
    values[3:].view(np.float32)[:] = 1.0
    return values


_PADDING_DRAW = _padding_draw()


def _rows_of(chunks: list[Chunk]) -> list[int]:
    rows: list[int] = []
    for chunk in chunks:
        known = chunk.sequence.layout.rows
        if chunk.is_ahead:
            rows.append(0)
        elif chunk.num_rows == 1:
            rows.append(known[chunk.start])
        else:
            rows += known[chunk.start : chunk.start + chunk.num_rows]
    return rows


def _write_tiles(tiles: np.ndarray, starts: np.ndarray, counts: np.ndarray, firsts: np.ndarray) -> None:
    """Cut each chunk into tiles of TILE_ROWS; its line in the table of pages is its number."""
    num_tiles = -(-counts // TILE_ROWS)
    used = int(num_tiles.sum())
    line = np.repeat(np.arange(len(counts)), num_tiles)
    offset = (np.arange(used) - np.repeat(np.cumsum(num_tiles) - num_tiles, num_tiles)) * TILE_ROWS
    tiles[:used, 0] = line
    tiles[:used, 1] = firsts[line] + offset
    tiles[:used, 2] = np.minimum(TILE_ROWS, counts[line] - offset)
    tiles[:used, 3] = starts[line] + offset
    tiles[used:] = 0
