"""What a step computes, as columns: one number of each chunk, whole steps at a time."""

from __future__ import annotations

from operator import attrgetter
from typing import NamedTuple

import numpy as np

from light_tts.llm.decoding_group import AheadRows
from light_tts.llm.scheduler import Chunk
from light_tts.llm.sequence import Sequence
from light_tts.llm.sequence_table import SequenceTable

_num_computed_of = attrgetter("num_computed")


class StepColumns(NamedTuple):
    """The chunks of a step.

    lines:     [C] of their sequences in the `SequenceTable`.
    starts:    [C] place of the first row of each.
    counts:    [C] rows of each.
    samples:   [C] bool, an id is drawn after it.
    is_ahead:  [C] bool, its one row is that of the last id drawn, which the device has.
    is_known:  such ids have been handed over, and are in the table's histories.
    known:     rows of the joint table, of one chunk after the other; None where all are ahead.
    """

    lines: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    samples: np.ndarray
    is_ahead: np.ndarray
    is_known: bool
    known: list[int] | None


class ColumnsMaker:
    """Used by the engine's thread alone.

    group:  number of the sequences that decode together: the same as long as they stay the same.
    """

    def __init__(self, table: SequenceTable) -> None:
        self.group = 0
        self._table = table
        self._sequences: tuple[Sequence, ...] = ()
        self._first_step = 0
        self._ahead = _NOTHING

    def columns_of(self, ahead: AheadRows, chunks: list[Chunk]) -> StepColumns:
        """Of the rows, and then of the chunks."""
        ours = self._ahead_columns(ahead) if ahead.sequences else _NOTHING
        if not chunks:
            return ours
        sequences, starts, counts, samples, is_ahead = zip(*chunks, strict=True)
        numbers = np.array((starts, counts), np.int64)
        flags = np.array((samples, is_ahead), bool)
        if not ahead.sequences:
            known = None if flags[1].all() else _rows_of(chunks)
            lines = self._table.look_up(sequences)
            return StepColumns(lines, numbers[0], numbers[1], flags[0], flags[1], False, known)
        return StepColumns(
            np.concatenate([ours.lines, self._table.look_up(sequences)]),
            np.concatenate([ours.starts, numbers[0]]),
            np.concatenate([ours.counts, numbers[1]]),
            np.concatenate([ours.samples, flags[0]]),
            np.concatenate([ours.is_ahead, flags[1]]),
            ours.is_known,
            [0] * len(ours.lines) + _rows_of(chunks),
        )

    def note_codes(self, sequences: tuple[Sequence, ...], codes: list[int]) -> None:
        """The history of each of these has grown by one code."""
        lines = self._ahead.lines if sequences is self._sequences else self._table.lines_of(sequences)
        self._table.note_codes(lines, codes)

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        if sequence in self._sequences:
            self._sequences, self._ahead = (), _NOTHING
            self.group += 1

    def _ahead_columns(self, ahead: AheadRows) -> StepColumns:
        if ahead.grown:
            self._table.note_next_pages(ahead.grown)
        if ahead.sequences is not self._sequences:
            starts = np.fromiter(map(_num_computed_of, ahead.sequences), np.int64, len(ahead.sequences))
            self._ahead = _columns(self._table.lines_of(ahead.sequences), starts)
            self._sequences, self._first_step = ahead.sequences, ahead.step
            self.group += 1
        starts = self._ahead.starts + (ahead.step - self._first_step)
        return self._ahead._replace(starts=starts, is_known=ahead.is_known)


def _columns(lines: np.ndarray, starts: np.ndarray) -> StepColumns:
    """One row of each, and all are ahead."""
    ones = np.ones_like(lines)
    return StepColumns(lines, starts, ones, ones.astype(bool), ones.astype(bool), False, None)


_NOTHING = _columns(np.zeros(0, np.int64), np.zeros(0, np.int64))


def _rows_of(chunks: list[Chunk]) -> list[int]:
    rows: list[int] = []
    for chunk in chunks:
        if chunk.is_ahead:
            rows.append(0)
        else:
            rows += chunk.sequence.layout.rows[chunk.start : chunk.start + chunk.num_rows]
    return rows
