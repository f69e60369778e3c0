"""One buffer on the host into which the inputs of a step are written before they travel to the device."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from light_tts.kernels.packed_attention import TILE_ROWS
from light_tts.llm.sequence_table import SequenceTable
from light_tts.llm.step_columns import StepColumns
from light_tts.llm.step_shape import BLOCKED_EDGES, StepShape, places_of


class _Parts(NamedTuple):
    """Views of the buffer for one shape; see `Places`."""

    rows: np.ndarray
    draws: np.ndarray
    fixed: np.ndarray
    blocked: np.ndarray
    window: np.ndarray
    selected: np.ndarray
    tiles: np.ndarray
    table: np.ndarray


class _Held(NamedTuple):
    """A step of nothing but one group's rows, which is what the buffer holds.

    num_noted_pages:  the table's count when the pages were written.
    blocked_until:    step of the group for which the blocked ids may be others.
    end:              of the buffer.
    """

    group: int
    shape: StepShape
    step: int
    first_target: int
    num_noted_pages: int
    blocked_until: int
    end: int


class HostInputs:
    """Remembers what it holds: of a group that goes on, only what moves is written.

    buffer:     [n] int64, long enough for any shape.
    dump_slot:  where padding rows leave their keys and values.
    dump_draw:  where padding draws leave their ids.
    """

    def __init__(
        self, buffer: np.ndarray, table: SequenceTable, *, block_tokens: int, dump_slot: int, dump_draw: int
    ) -> None:
        self._buffer, self._table, self._block_tokens = buffer, table, block_tokens
        self._padding_row = np.array([[0], [-1], [0], [dump_slot]])
        self._padding_draw = np.array([[-1], [dump_draw], [0]])
        self._parts_of = lru_cache(maxsize=None)(self._cut)
        self._held: _Held | None = None

    def write(self, columns: StepColumns, shape: StepShape, first_target: int) -> int:
        """Write chunks, those of one row first, padded to `shape`; returns where the buffer ends.

        first_target:  place of the first drawn id; the others follow.
        """
        self._held = None
        parts, lines = self._parts_of(shape), columns.lines
        sources = np.where(columns.is_ahead, self._table.drawn_at.take(lines), -1)
        if not shape.num_tiles:
            self._write_rows(parts.rows, columns.known, columns.starts, lines, sources)
            self._write_draws(parts, lines, sources, first_target, columns.is_known)
        else:
            counts, samples = columns.counts, columns.samples
            firsts = np.cumsum(counts) - counts
            positions = np.repeat(columns.starts - firsts, counts) + np.arange(counts.sum())
            row_sources = np.full(len(positions), -1)
            row_sources[firsts] = sources
            self._write_rows(parts.rows, columns.known, positions, np.repeat(lines, counts), row_sources)
            _write_tiles(parts.tiles, columns.starts, counts, firsts)
            selected = (firsts + counts - 1)[samples]
            parts.selected[: len(selected)] = selected
            parts.selected[len(selected) :] = 0
            self._write_draws(parts, lines[samples], sources[samples], first_target, columns.is_known)
        return self._write_table(parts, lines, shape)

    def write_group(self, columns: StepColumns, shape: StepShape, first_target: int, *, group: int, step: int) -> int:
        """The same for the rows of a group alone, see `AheadRows` and `ColumnsMaker`."""
        held, table = self._held, self._table
        if held is None or (held.group, held.shape, held.first_target) != (group, shape, first_target):
            end = self.write(columns, shape, first_target)
            blocked_until = step + self._num_steps_blocked(columns.lines, shape)
            self._held = _Held(group, shape, step, first_target, table.num_noted_pages, blocked_until, end)
            return end
        self._move(columns, shape, step - held.step)
        if step >= held.blocked_until:
            self._write_blocked(self._parts_of(shape), columns.lines)
            held = held._replace(blocked_until=step + self._num_steps_blocked(columns.lines, shape))
        if held.num_noted_pages != table.num_noted_pages:
            end = self._write_table(self._parts_of(shape), columns.lines, shape)
            held = held._replace(num_noted_pages=table.num_noted_pages, end=end)
        self._held = held._replace(step=step)
        return held.end

    def _move(self, columns: StepColumns, shape: StepShape, num_steps: int) -> None:
        """Rows, places and histories of a group `num_steps` steps after what the buffer holds."""
        parts, table, lines = self._parts_of(shape), self._table, columns.lines
        count = len(lines)
        rows, draws = parts.rows[:, :count], parts.draws[:, :count]
        rows[1] = draws[0] = table.drawn_at.take(lines)
        rows[2] = columns.starts
        rows[3] = self._slots(lines, columns.starts)
        draws[2] += num_steps
        history = table.window.take(lines, axis=0)
        parts.window[:count, :-1] = history[:, :-1] if columns.is_known else history[:, 1:]
        table.drawn_at[lines] = draws[1]

    def _write_rows(
        self, rows: np.ndarray, known: list[int] | None, positions: np.ndarray, lines: np.ndarray, sources: np.ndarray
    ) -> None:
        """Write what each row is and where it lies: all but `rows` by row."""
        used = len(positions)
        rows[0, :used] = 0 if known is None else known
        rows[1, :used] = sources
        rows[2, :used] = positions
        rows[3, :used] = self._slots(lines, positions)
        if used < rows.shape[1]:
            rows[:, used:] = self._padding_row

    def _slots(self, lines: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Where keys and values of rows at these positions lie."""
        pages, places = np.divmod(positions, self._block_tokens)
        slots: np.ndarray = self._table.pages[lines, pages] * self._block_tokens + places
        return slots

    def _write_draws(
        self, parts: _Parts, lines: np.ndarray, sources: np.ndarray, first_target: int, is_known: bool
    ) -> None:
        count, table = len(lines), self._table
        is_drawing = (sources >= 0) & (not is_known)
        draws, fixed, window = parts.draws, parts.fixed, parts.window
        draws[0, :count] = sources
        draws[1, :count] = np.arange(first_target, first_target + count)
        draws[2, :count] = table.counts.take(lines) + is_drawing
        fixed[:count] = table.fixed.take(lines, axis=0)
        self._write_blocked(parts, lines)
        history = table.window.take(lines, axis=0)
        # What is drawn last comes from the device.
        if is_drawing.all():
            window[:count, :-1] = history[:, 1:]
        else:
            window[:count] = history
            window[:count][is_drawing, :-1] = history[is_drawing, 1:]
        if count < len(fixed):
            draws[:, count:] = self._padding_draw
            fixed[count:] = _PADDING_DRAW
            parts.blocked[count:] = 0
            window[count:] = -1
        table.drawn_at[lines] = draws[1, :count]

    def _write_blocked(self, parts: _Parts, lines: np.ndarray) -> None:
        count = len(lines)
        parts.blocked[:count] = self._table.blocked(lines, parts.draws[2, :count])

    def _num_steps_blocked(self, lines: np.ndarray, shape: StepShape) -> int:
        """Steps after which the first of the lines may have other blocked ids."""
        return self._table.num_steps_blocked(lines, self._parts_of(shape).draws[2, : len(lines)])

    def _write_table(self, parts: _Parts, lines: np.ndarray, shape: StepShape) -> int:
        """Write the pages, one line a sequence; returns where the buffer ends."""
        table = self._table
        width = table.widest(lines)
        self._buffer[0] = width
        length = shape.num_draws * width
        pages = parts.table[:length].reshape(-1, width)
        pages[: len(lines)] = table.pages[:, :width].take(lines, axis=0)
        pages[len(lines) :] = table.zero_page
        return len(self._buffer) - len(parts.table) + length

    def _cut(self, shape: StepShape) -> _Parts:
        places, buffer = places_of(shape, self._table.win_size), self._buffer
        return _Parts(
            rows=buffer[places.rows].reshape(4, -1),
            draws=buffer[places.draws].reshape(3, -1),
            fixed=buffer[places.fixed].reshape(-1, 4),
            blocked=buffer[places.blocked].reshape(-1, BLOCKED_EDGES),
            window=buffer[places.window].reshape(-1, self._table.win_size),
            selected=buffer[places.selected],
            tiles=buffer[places.tiles].reshape(-1, 4),
            table=buffer[places.table :],
        )


def _padding_draw() -> np.ndarray:
    """Key, top_k, greedy, and top_p and temperature of a draw that takes the most probable id."""
    values = np.array([0, 1, 0, 0], dtype=np.int64)
    values[3:].view(np.float32)[:] = 1.0
    return values


_PADDING_DRAW = _padding_draw()


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
