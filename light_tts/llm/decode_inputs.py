"""What a decoding step must know, packed into one buffer of fixed place on the device: what a recorded step reads.

A step of few rows is padded to a size that was recorded; a padding row sees nothing but itself and leaves its key and
value in a page that nobody reads.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from light_tts.kernels.paged_decode import DecodePages
from light_tts.llm.random import uniforms
from light_tts.llm.sampler import SamplingBatch
from light_tts.llm.scheduler import Chunk
from light_tts.llm.sequence import Sequence

# Candidates are sorted to this depth, whatever the rows ask for.
MAX_TOP_K = 64

_BLOCKED_EDGES = 4


class DecodeViews(NamedTuple):
    """Inputs of a step of B rows, as views of the buffer on the device; all int64 but `numbers`.

    rows, positions:  [B] rows of the joint table, and their places in their sequences.
    keys, steps:      [B] of the random numbers.
    top_k, greedy:    [B]
    numbers:          [B, 2] float32: top_p, temperature.
    blocked, window:  see `SamplingBatch`.
    pages:            see `DecodePages`.
    """

    rows: Tensor
    positions: Tensor
    keys: Tensor
    steps: Tensor
    top_k: Tensor
    greedy: Tensor
    numbers: Tensor
    blocked: Tensor
    window: Tensor
    pages: DecodePages

    def sampling(self) -> SamplingBatch:
        """The same for the sampler, with nothing left out: what a step holds must not depend on its values."""
        return SamplingBatch(
            blocked=self.blocked,
            window=self.window,
            top_p=self.numbers[:, 0],
            top_k=self.top_k,
            max_top_k=MAX_TOP_K,
            temperature=self.numbers[:, 1],
            greedy=self.greedy.bool(),
            uniforms=uniforms(self.keys, self.steps),
        )


class _Columns(NamedTuple):
    """Parts of the packed buffer for a step of B rows, on either side: the width of the table, then these."""

    dynamic: slice  # [4, B] rows, positions, slots, steps
    static: slice  # [4, B] keys, top_k, greedy, numbers
    blocked: slice  # [B, 4]
    window: slice  # [B, W]
    table: int  # where the pages begin


def _columns(size: int, win_size: int) -> _Columns:
    edges = np.cumsum([1, 4 * size, 4 * size, _BLOCKED_EDGES * size, win_size * size]).tolist()
    dynamic, static, blocked, window = (slice(*pair) for pair in pairwise(edges))
    return _Columns(dynamic, static, blocked, window, table=edges[-1])


class DecodeInputs:
    """The buffer on the host and its twin on the device. Used by the engine's thread alone.

    most_rows:   of a step.
    most_pages:  of one sequence.
    dump_slot:   where padding rows leave their keys and values.
    zero_page:   fills the lists of pages.
    """

    def __init__(
        self,
        *,
        most_rows: int,
        most_pages: int,
        block_tokens: int,
        win_size: int,
        dump_slot: int,
        zero_page: int,
        device: torch.device,
    ) -> None:
        self.most_pages = most_pages
        self._block_tokens, self._win_size = block_tokens, win_size
        self._dump_slot, self._zero_page = dump_slot, zero_page
        length = _columns(most_rows, win_size).table + most_rows * most_pages
        self._host = torch.zeros(length, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._device = torch.zeros(length, dtype=torch.int64, device=device)
        self._numbers = self._host.numpy()
        self._size = 0
        self._sequences: list[Sequence] = []
        self._steps: list[int] = []
        self._tables: list[tuple[list[int], int]] = []  # what the table holds of whose pages

    def views(self, size: int) -> DecodeViews:
        """Inputs of a step of `size` rows on the device."""
        places = _columns(size, self._win_size)
        rows, positions, slots, steps = self._device[places.dynamic].view(4, size)
        keys, top_k, greedy, numbers = self._device[places.static].view(4, size)
        return DecodeViews(
            rows=rows,
            positions=positions,
            keys=keys,
            steps=steps,
            top_k=top_k,
            greedy=greedy,
            numbers=numbers.view(torch.float32).view(size, 2),
            blocked=self._device[places.blocked].view(size, _BLOCKED_EDGES),
            window=self._device[places.window].view(size, self._win_size),
            pages=DecodePages(positions, slots, self._device[places.table :], self._device[:1]),
        )

    def fill(self, chunks: list[Chunk], size: int) -> None:
        """Write the chunks, one row each, padded to `size` rows, and send them to the device.

        The device must have finished reading what the call before sent.
        """
        count, host = len(chunks), self._numbers
        places = _columns(size, self._win_size)
        if size != self._size:
            self._begin(size)
        sequences = [chunk.sequence for chunk in chunks]
        layouts = [sequence.layout for sequence in sequences]
        starts = [chunk.start for chunk in chunks]
        dynamic = host[places.dynamic].reshape(4, size)
        dynamic[0, :count] = [layout.rows[start] for layout, start in zip(layouts, starts, strict=True)]
        dynamic[1, :count] = starts
        dynamic[2, :count] = self._slots(sequences, starts)
        steps = [len(layout.history) for layout in layouts]
        dynamic[3, :count] = steps
        blocked = [edge for layout in layouts for limits in layout.blocked for edge in limits]
        host[places.blocked][: count * _BLOCKED_EDGES] = blocked
        self._write_window(host[places.window].reshape(size, self._win_size)[:count], sequences, steps)
        if sequences != self._sequences or not sequences:
            self._write_static(host[places.static].reshape(4, size), sequences)
        if count < size:
            dynamic[:, count:] = [[0], [0], [self._dump_slot], [0]]
        used = places.table + size * self._write_table(host[places.table :], sequences)
        self._device[:used].copy_(self._host[:used], non_blocking=True)

    def _begin(self, size: int) -> None:
        """Another size lays the buffer out anew: nothing of the last step can be kept."""
        self._size, self._sequences, self._tables = size, [], []

    def _slots(self, sequences: list[Sequence], starts: list[int]) -> list[int]:
        tokens = self._block_tokens
        return [
            sequence.blocks[start // tokens] * tokens + start % tokens
            for sequence, start in zip(sequences, starts, strict=True)
        ]

    def _write_window(self, window: np.ndarray, sequences: list[Sequence], steps: list[int]) -> None:
        """The last ids of each history, which mostly are those of the last step and one more."""
        if sequences == self._sequences and steps == [step + 1 for step in self._steps]:
            window[:, :-1] = window[:, 1:].copy()
            window[:, -1] = [sequence.layout.history[-1] for sequence in sequences]
        else:
            window[:] = -1
            for row, sequence in zip(window, sequences, strict=True):
                last = sequence.layout.history[-self._win_size :]
                row[self._win_size - len(last) :] = last
        self._steps = steps

    def _write_static(self, static: np.ndarray, sequences: list[Sequence]) -> None:
        """What does not change while a sequence keeps its row. Padding rows draw the most probable id."""
        count = len(sequences)
        choices = [sequence.sampling for sequence in sequences]
        static[0, :count] = [sequence.key for sequence in sequences]
        static[1, :count] = [choice.top_k for choice in choices]
        static[2, :count] = [choice.greedy for choice in choices]
        floats = static[3].view(np.float32).reshape(-1, 2)
        floats[:count, 0] = [choice.top_p for choice in choices]
        floats[:count, 1] = [choice.temperature for choice in choices]
        static[:3, count:] = [[0], [1], [0]]
        floats[count:] = 1.0
        self._sequences = sequences

    def _write_table(self, table: np.ndarray, sequences: list[Sequence]) -> int:
        """Write the pages of each sequence that are not there yet; returns the width of a row."""
        width = int(self._numbers[0])
        longest = max((len(sequence.blocks) for sequence in sequences), default=0)
        if not self._tables or longest > width or width > 2 * longest + 32:
            # Room to grow, so that a page more does not move every row.
            width = self._numbers[0] = min(self.most_pages, longest + 8)
            self._tables = []
            table[: self._size * width] = self._zero_page
        rows = table[: self._size * width].reshape(self._size, width)
        kept = self._tables
        tables = []
        for index, sequence in enumerate(sequences):
            # A list of pages only grows; a sequence that loses its pages gets a new list.
            pages = sequence.blocks
            same = index < len(kept) and kept[index][0] is pages
            known = kept[index][1] if same else 0
            if known < len(pages):
                rows[index, known : len(pages)] = pages[known:]
            tables.append((pages, len(pages)))
        self._tables = tables
        return int(width)
