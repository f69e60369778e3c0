"""The context of new frames among kept ones: past keys and values, convolution tails, and what is to be kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from light_tts.acoustic.flow_states import LevelStates, Save
from light_tts.models.nets.context import PlainContext
from light_tts.models.nets.dense import Tail


class Surroundings(NamedTuple):
    """What an evaluation reads of a KeptContext, as tensors.

    keys_values:  [layers, B, S, 2W], where the last T steps are written; with no step at all where nothing is kept.
    mask:         see `attention`; without elements: everything is visible.
    chunk:        [] int64; see `attention`.
    positions:    [B or 1, T] int64.
    tails:        of each convolution, [B, left, C].
    """

    keys_values: Tensor
    mask: Tensor
    chunk: Tensor
    positions: Tensor
    tails: tuple[Tensor, ...]


class KeptContext(PlainContext):
    """New steps of several sequences, each with its own past. One object serves all evaluations of one network.

    Rows are ordered by guidance row first: row r * num_sequences + s is guidance row r of sequence s.

    lengths:  new steps per sequence.
    pasts:    states before the new steps, in order, per sequence.
    saves:    what is to be kept of the new steps, per sequence.
    layers:   attention layers of the network, of `width` channels.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        pasts: Sequence[Sequence[LevelStates]],
        saves: Sequence[Sequence[Save]],
        *,
        layers: int,
        width: int,
        guidance_rows: int,
        chunk: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        past_steps = [sum(states.keys_values.shape[3] for states in past) for past in pasts]
        super().__init__(
            list(lengths) * guidance_rows,
            chunk=chunk,
            past=past_steps * guidance_rows,
            dtype=dtype,
            device=device,
        )
        self._pasts, self._saves = pasts, saves
        self._rows, self._layers = guidance_rows, layers
        self._has_past = any(past_steps)
        self._evaluation = 0
        self._buffer: Tensor | None = None
        if layers and (self._has_past or any(saves)):
            # Zeros: masked keys must be finite, and rows with a shorter past leave a gap.
            shape = (layers, len(self.lengths), self.num_keys, 2 * width)
            self._buffer = (torch.empty if self._is_even else torch.zeros)(shape, dtype=dtype, device=device)

    def begin(self, evaluation: int) -> None:
        """Bring in the past of one evaluation (Euler step)."""
        self._evaluation = evaluation
        if self._buffer is None:
            return
        by_sequence = self._by_sequence(self._buffer)
        for sequence, past in enumerate(self._pasts):
            start = self.num_past - self.past[sequence]
            for states in past:
                end = start + states.keys_values.shape[3]
                by_sequence[:, :, sequence, start:end] = states.keys_values[evaluation]
                start = end

    def finish(self) -> None:
        """Keep what is to be kept of the evaluation that has just run."""
        if self._buffer is None:
            return
        by_sequence = self._by_sequence(self._buffer)
        for sequence, saves in enumerate(self._saves):
            for states, begin, end in saves:
                new = by_sequence[:, :, sequence, self.num_past + begin : self.num_past + end]
                states.keys_values[self._evaluation].copy_(new)

    def extend(self, tail: int, x: Tensor, left: int) -> Tensor:
        """See SequenceContext."""
        if self._has_past:
            extended = torch.cat([self._last_inputs(tail, left, x.shape[2], x.dtype), x], dim=1)
        else:
            extended = super().extend(tail, x, left)
        self.keep_tail(tail, extended)
        return extended

    def keep_tail(self, tail: int, extended: Tensor) -> None:
        """Keep what is to be kept of a convolution's input, [B, left + T, C]."""
        left = extended.shape[1] - self.num_new
        by_sequence = extended.view(self._rows, len(self._pasts), *extended.shape[1:])
        for sequence, saves in enumerate(self._saves):
            for states, _, end in saves:
                states.tails[self._evaluation][tail] = by_sequence[:, sequence, end : end + left].clone()

    def surroundings(self, tails: Sequence[Tail]) -> Surroundings:
        """What the evaluation that has begun reads, for a network with these convolutions."""
        return Surroundings(
            keys_values=torch.empty(self._layers, 0) if self._buffer is None else self._buffer,
            mask=torch.empty(0) if self._mask is None else self._mask,
            chunk=torch.tensor(self.chunk_of_attention),
            positions=self.positions(),
            tails=tuple(
                self._last_inputs(index, tail.left, tail.channels, torch.float32) for index, tail in enumerate(tails)
            ),
        )

    def _keys_values(self, layer: int, new: Tensor) -> Tensor:
        if self._buffer is None:
            return new
        keyed = self._buffer[layer]
        keyed[:, self.num_past :] = new
        return keyed

    def _by_sequence(self, buffer: Tensor) -> Tensor:
        """[layers, rows, S, 2W] -> [layers, guidance rows, sequences, S, 2W]."""
        return buffer.view(buffer.shape[0], self._rows, len(self._pasts), *buffer.shape[2:])

    def _last_inputs(self, tail: int, left: int, channels: int, dtype: torch.dtype) -> Tensor:
        """[B, left, channels]: the inputs of a convolution just before the new steps."""
        kept = [past[-1].tails[self._evaluation][tail] if past else None for past in self._pasts]
        if len(kept) == 1 and kept[0] is not None:
            return kept[0]
        zeros = torch.zeros(self._rows, left, channels, dtype=dtype, device=self.device)
        return torch.stack([zeros if tensor is None else tensor for tensor in kept], dim=1).flatten(0, 1)
