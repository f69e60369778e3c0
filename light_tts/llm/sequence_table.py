"""What a step must know of each sequence, kept in arrays: a step gathers lines instead of asking objects.

A sequence gets a line when it is first met; from step to step only what has changed is written.
"""

from __future__ import annotations

from operator import attrgetter, itemgetter

import numpy as np

from light_tts.llm.sequence import Sequence

_NO_CODE = -1  # pads a window that is not full yet
_FIRST_LINES = 64

# For `map`: a step has no time for a line of Python per sequence.
_blocks_of, _last_of = attrgetter("blocks"), itemgetter(-1)


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

    num_noted_pages:  times that pages of some line have changed.
    """

    def __init__(self, *, most_pages: int, win_size: int, zero_page: int) -> None:
        self.most_pages, self.zero_page, self.win_size = most_pages, zero_page, win_size
        self.num_noted_pages = 0
        self._lines: dict[Sequence, int] = {}
        self._holders: list[Sequence | None] = []
        self._free: list[int] = []
        self._lists: list[list[int]] = []  # whose pages a line holds
        self._num_pages = np.zeros(0, dtype=np.int64)  # how many of them
        # Those of the last step, which mostly are those of the next: their lines, lists of pages, and histories.
        self._last: tuple[Sequence, ...] = ()
        self._last_lines = np.zeros(0, dtype=np.int64)
        self._last_blocks: list[list[int]] = []
        self._last_histories: list[list[int]] = []
        self.pages = np.full((0, most_pages), zero_page, dtype=np.int64)
        self.fixed = np.zeros((0, 4), dtype=np.int64)
        self.counts = np.zeros(0, dtype=np.int64)
        self.window = np.full((0, win_size), _NO_CODE, dtype=np.int64)
        self.drawn_at = np.zeros(0, dtype=np.int64)
        self._blocked = np.zeros((0, 4), dtype=np.int64)
        self._blocked_until = np.zeros(0, dtype=np.int64)

    def look_up(self, sequences: tuple[Sequence, ...]) -> np.ndarray:
        """The lines of the sequences, whose pages and histories are up to date afterwards."""
        blocks = list(map(_blocks_of, sequences))
        # Lists that are the same objects are not compared further; what has grown in them is seen below.
        if sequences != self._last or blocks != self._last_blocks:
            self._meet(sequences, blocks)
        at = self._last_lines
        counts = np.fromiter(map(len, blocks), np.int64, len(blocks))
        for index in np.flatnonzero(counts != self._num_pages[at]).tolist():
            self._note_pages(int(at[index]), blocks[index])
        self._note_histories(self._last_histories, at)
        return at

    def _meet(self, sequences: tuple[Sequence, ...], blocks: list[list[int]]) -> None:
        """Find or give out the lines of other sequences than those of the last step."""
        known, lists, lines = self._lines, self._lists, []
        for sequence, own in zip(sequences, blocks, strict=True):
            line = known.get(sequence)
            if line is None:
                line = self._begin(sequence)
            if lists[line] is not own:
                self._note_pages(line, own)
            lines.append(line)
        self._last, self._last_blocks = sequences, blocks
        self._last_lines = np.array(lines, dtype=np.int64)
        self._last_histories = [sequence.layout.history for sequence in sequences]

    def lines_of(self, sequences: tuple[Sequence, ...]) -> np.ndarray:
        """The lines of sequences that are known; `note_next_pages` and `note_codes` keep them up to date."""
        return np.fromiter(map(self._lines.__getitem__, sequences), np.int64, len(sequences))

    def note_next_pages(self, sequences: tuple[Sequence, ...]) -> None:
        """Each of these known sequences has got one page more."""
        lines = self.lines_of(sequences)
        self.pages[lines, self._num_pages[lines]] = list(map(_last_of, map(_blocks_of, sequences)))
        self._num_pages[lines] += 1
        self.num_noted_pages += 1

    def note_codes(self, lines: np.ndarray, codes: list[int]) -> None:
        """The history of each of these known sequences has grown by one code."""
        self.counts[lines] += 1
        self._note_last(codes, lines)

    def blocked(self, at: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """[B, 4] ids that the samples numbered `steps` must not be (see `SamplingBatch`)."""
        for index in np.flatnonzero(steps >= self._blocked_until.take(at)).tolist():
            line = int(at[index])
            holder = self._holders[line]
            assert holder is not None, "a sample is drawn for a sequence that has been forgotten"
            limits, until = holder.layout.blocked_at(int(steps[index]))
            self._blocked[line] = [edge for pair in limits for edge in pair]
            self._blocked_until[line] = until
        blocked: np.ndarray = self._blocked.take(at, axis=0)
        return blocked

    def num_steps_blocked(self, at: np.ndarray, steps: np.ndarray) -> int:
        """Steps after which `blocked` may be another for the first of these, who draw one sample a step."""
        return int((self._blocked_until.take(at) - steps).min())

    def widest(self, lines: np.ndarray) -> int:
        """Most pages that one of the lines holds, at least 1."""
        return int(self._num_pages[lines].max(initial=1))

    def forget(self, sequence: Sequence) -> None:
        """Give the line of a sequence to others."""
        line = self._lines.pop(sequence, None)
        if line is not None:
            self._lists[line], self._holders[line] = [], None
            self._free.append(line)
            self._last, self._last_blocks, self._last_histories = (), [], []

    def _begin(self, sequence: Sequence) -> int:
        if not self._free:
            self._grow()
        line = self._free.pop()
        self._lines[sequence], self._holders[line] = line, sequence
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
        for name in ("pages", "fixed", "counts", "window", "drawn_at", "_num_pages", "_blocked", "_blocked_until"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros((more, *array.shape[1:]), dtype=np.int64)]))
        self._lists += [[]] * more
        self._holders += [None] * more
        self._free = list(range(before + more - 1, before - 1, -1))

    def _note_pages(self, line: int, blocks: list[int]) -> None:
        """A list of pages only grows; a sequence that loses its pages gets a new list."""
        count = int(self._num_pages[line])
        if self._lists[line] is not blocks:
            self.pages[line, :count] = self.zero_page
            count = 0
        self.pages[line, count : len(blocks)] = blocks[count:]
        self._lists[line], self._num_pages[line] = blocks, len(blocks)
        self.num_noted_pages += 1

    def _note_histories(self, histories: list[list[int]], at: np.ndarray) -> None:
        counts = np.fromiter(map(len, histories), np.int64, len(histories))
        grown = counts - self.counts[at]
        self.counts[at] = counts
        by_one = grown == 1
        if by_one.all():
            self._note_last(list(map(_last_of, histories)), at)
            return
        if by_one.any():
            self._note_last([histories[index][-1] for index in np.flatnonzero(by_one).tolist()], at[by_one])
        for index in np.flatnonzero((grown != 0) & ~by_one).tolist():
            last = histories[index][-self.win_size :]
            self.window[at[index]] = [_NO_CODE] * (self.win_size - len(last)) + last

    def _note_last(self, ids: list[int], lines: np.ndarray) -> None:
        window = np.empty((len(lines), self.win_size), np.int64)
        window[:, :-1] = self.window.take(lines, axis=0)[:, 1:]
        window[:, -1] = ids
        self.window[lines] = window
