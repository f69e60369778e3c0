"""What is around the new steps of each row of a vocoder call: zeros, or what came before.

Nothing here looks at a value on the host. A call has some eighty layers, and places in them follow from few numbers:
each is computed once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from light_tts.kernels.hift_conv import Tail

_MOST_VALUES = 2**22  # that a stream carries: 165,000 in published models
_VALUES_AT_ONCE = 16  # each layer's begin at a multiple of this, so that kernels may read as much as they can at once


class Surroundings(Protocol):
    """The other side of a piece, or zeros."""

    def ends(self, rate: int, extra: int = 0) -> Tensor | None:
        """[B] int64 steps of each row at `rate` steps per frame; None when what lies behind cannot do harm."""

    def tail(self, x: Tensor, width: int, rate: int) -> Tail | None:
        """`width` steps before x [B, T, C], to be kept by the caller for the next piece; None: zeros."""


class Edges:
    """Zeros on both sides of each row. frames: [B] int64."""

    def __init__(self, frames: Tensor) -> None:
        self._frames = frames
        self._ends: dict[tuple[int, int], Tensor] = {}

    def ends(self, rate: int, extra: int = 0) -> Tensor | None:
        """See Surroundings."""
        known = self._ends.get((rate, extra))
        if known is None:
            known = self._ends[rate, extra] = self._frames * rate + extra
        return known

    def tail(self, x: Tensor, width: int, rate: int) -> Tail | None:
        """See Surroundings."""
        return None


class TailLayer(NamedTuple):
    """A layer's left context: `width` steps of so many channels, at `rate` steps per frame."""

    width: int
    channels: int
    rate: int

    @property
    def num_values(self) -> int:
        """Of the layer in a stream's vector."""
        return -(-self.width * self.channels // _VALUES_AT_ONCE) * _VALUES_AT_ONCE


class TailProbe:
    """Zeros before a single row; remembers which left contexts are asked for, in the order in which the layers run.

    The zeros lie as what streams carry will: kernels are compiled for the alignment of what they read.
    """

    def __init__(self, device: torch.device) -> None:
        self.layers: list[TailLayer] = []
        self._zeros = torch.zeros(1, _MOST_VALUES, device=device)
        self._kept = torch.empty_like(self._zeros)
        self._end = torch.zeros(1, dtype=torch.int64, device=device)
        self._offset = 0

    def ends(self, rate: int, extra: int = 0) -> Tensor | None:
        """See Surroundings."""
        return None

    def tail(self, x: Tensor, width: int, rate: int) -> Tail | None:
        """See Surroundings."""
        if width == 0:
            return None
        layer = TailLayer(width, x.shape[2], rate)
        self.layers.append(layer)
        start, self._offset = self._offset, self._offset + layer.num_values
        before, after = _layer_of(self._zeros.view(x.dtype), start, layer), _layer_of(self._kept, start, layer)
        return Tail(before, after, self._end)


class CarriedTails:
    """Left contexts of all layers, asked for in the order in which they run: one flat vector per stream.

    carried:  [B, S] float32, zeros for streams that start; S is `num_tail_values` of the layers.
    frames:   [B] int64, new frames of each row.
    """

    def __init__(self, carried: Tensor, frames: Tensor) -> None:
        self._carried, self._frames = {carried.dtype: carried}, frames
        self._offset = 0
        self._new = torch.zeros_like(carried)
        self._ends: dict[int, Tensor] = {}

    def ends(self, rate: int, extra: int = 0) -> Tensor | None:
        """See Surroundings: causal layers do not look back from behind the end."""
        return None

    def tail(self, x: Tensor, width: int, rate: int) -> Tail | None:
        """See Surroundings."""
        if width == 0:
            return None
        layer = TailLayer(width, x.shape[2], rate)
        start, self._offset = self._offset, self._offset + layer.num_values
        if rate not in self._ends:
            self._ends[rate] = self._frames * rate
        before = _layer_of(self._carried_as(x.dtype), start, layer)
        return Tail(before, _layer_of(self._new, start, layer), self._ends[rate])

    def _carried_as(self, dtype: torch.dtype) -> Tensor:
        # What a layer of another type left there had that type before: nothing is rounded.
        known = self._carried.get(dtype)
        if known is None:
            known = self._carried[dtype] = self._carried[torch.float32].to(dtype)
        return known

    def packed(self) -> Tensor:
        """[B, S] the contexts after this call, when all layers have run."""
        return self._new


def num_tail_values(layers: Iterable[TailLayer]) -> int:
    """Values that a stream carries."""
    return sum(layer.num_values for layer in layers)


def _layer_of(vectors: Tensor, start: int, layer: TailLayer) -> Tensor:
    """[B, width, C] of one layer that begins at `start` in flat vectors [B, S]."""
    values = vectors[:, start : start + layer.width * layer.channels]
    return values.view(len(vectors), layer.width, layer.channels)
