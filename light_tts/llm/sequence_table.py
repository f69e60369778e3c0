"""What a step must know of each sequence, kept in arrays: a step gathers lines instead of asking objects.

A sequence gets a line when it is first met; from step to step only what has changed is written.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np

from light_tts.llm.sequence import Sequence

_NO_CODE = -1  # pads a window that is not full yet
_FIRST_LINES = 64


class SequenceTable:
    """Lines of known sequences. Used by the engine's thread alone.

    most_pages:  of one sequence.
    win_size:    ids of the history that the sampler looks back on.
    zero_page:   fills the lists of pages.

    Arrays by line; all int64:

    pages:     [L, most_pages]
    fixed:     [L, 4] key, top_k, greedy; top_p and temperature as two float32.
    counts:    [L] length of the history.
    window:    [L, win_size] its last ids, -1 in front where it is shorter.
    drawn_at:  [L] where the device keeps the sequence's last sample.
    """

    def __init__(self, *, most_pages: int, win_size: int, zero_page: int) -> None:
        self.most_pages, self.zero_page, self._win_size = most_pages, zero_page, win_size
        self._lines: dict[Sequence, int] = {}
        self._free: list[int] = []
        self._lists: list[list[int]] = []  # whose pages a line holds
        self._num_pages: list[int] = []  # how many of them
        self.pages = np.full((0, most_pages), zero_page, dtype=np.int64)
        self.fixed = np.zeros((0, 4), dtype=np.int64)
        self.counts = np.zeros(0, dtype=np.int64)
        self.window = np.full((0, win_size), _NO_CODE, dtype=np.int64)
        self.drawn_at = np.zeros(0, dtype=np.int64)
        self._blocked = np.zeros((0, 4), dtype=np.int64)
        self._blocked_until = np.zeros(0, dtype=np.int64)

    def look_up(self, sequences: Seq[Sequence]) -> np.ndarray:
        """The lines of the sequences, whose pages and histories are up to date afterwards."""
        known, lists, num_pages = self._lines, self._lists, self._num_pages
        lines = []
        for sequence in sequences:
            line = known.get(sequence)
            if line is None:
                line = self._begin(sequence)
            blocks = sequence.blocks
            if lists[line] is not blocks or num_pages[line] != len(blocks):
                self._note_pages(line, blocks)
            lines.append(line)
        at = np.array(lines, dtype=np.int64)
        self._note_histories(sequences, at)
        return at

    def blocked(self, sequences: Seq[Sequence], at: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """[B, 4] ids that the samples numbered `steps` must not be (see `SamplingBatch`)."""
        for index in np.flatnonzero(steps >= self._blocked_until[at]).tolist():
            line = at[index]
            limits, until = sequences[index].layout.blocked_at(int(steps[index]))
            self._blocked[line] = [edge for pair in limits for edge in pair]
            self._blocked_until[line] = until
        blocked: np.ndarray = self._blocked[at]
        return blocked

    def widest(self, lines: np.ndarray) -> int:
        """Most pages that one of the lines holds, at least 1."""
        return max([self._num_pages[line] for line in lines.tolist()], default=1)

    def forget(self, sequence: Sequence) -> None:
        """Give the line of a sequence to others."""
        line = self._lines.pop(sequence, None)
        if line is not None:
            self._lists[line] = []
            self._free.append(line)

    def _begin(self, sequence: Sequence) -> int:
        if not self._free:
            self._grow()
        line = self._free.pop()
        self._lines[sequence] = line
        values = sequence.sampling
        self.fixed[line, :3] = sequence.key, values.top_k, values.greedy
        self.fixed[line, 3:].view(np.float32)[:] = values.top_p, values.temperature
        self.counts[line], self.window[line] = 0, _NO_CODE
        self.pages[line] = self.zero_page
        self._num_pages[line] = 0
        self._blocked_until[line] = 0
        return line

    def _grow(self) -> None:
        before = len(self.counts)
        more = max(before, _FIRST_LINES)
        for name in ("pages", "fixed", "counts", "window", "drawn_at", "_blocked", "_blocked_until"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros((more, *array.shape[1:]), dtype=np.int64)]))
        self._lists += [[]] * more
        self._num_pages += [0] * more
        self._free = list(range(before + more - 1, before - 1, -1))

    def _note_pages(self, line: int, blocks: list[int]) -> None:
        """A list of pages only grows; a sequence that loses its pages gets a new list."""
        count = self._num_pages[line]
        if self._lists[line] is not blocks:
            self.pages[line, :count] = self.zero_page
            count = 0
        self.pages[line, count : len(blocks)] = blocks[count:]
        self._lists[line], self._num_pages[line] = blocks, len(blocks)

    def _note_histories(self, sequences: Seq[Sequence], at: np.ndarray) -> None:
        counts = np.array([len(sequence.layout.history) for sequence in sequences], dtype=np.int64)
        grown = counts - self.counts[at]
        self.counts[at] = counts
        by_one = np.flatnonzero(grown == 1).tolist()
        if by_one:
            lines = at[by_one]
            self.window[lines, :-1] = self.window[lines, 1:]
            self.window[lines, -1] = [sequences[index].layout.history[-1] for index in by_one]
        for index in np.flatnonzero((grown != 0) & (grown != 1)).tolist():
            last = sequences[index].layout.history[-self._win_size :]
            self.window[at[index]] = [_NO_CODE] * (self._win_size - len(last)) + last
