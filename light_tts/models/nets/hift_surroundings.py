"""What is around the new steps of each row of a vocoder call: zeros, or what came before.

Nothing here looks at a value on the host. A call has some eighty layers, and places in them follow from few numbers:
each is computed once.
"""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_MOST_VALUES = 2**22  # that a stream carries: 165,000 in published models
_VALUES_AT_ONCE = 16  # each layer's begin at a multiple of this, so that kernels may read as much as they can at once


class Surroundings(Protocol):
    """The other side of a piece, or zeros."""

    def ends(self, rate: int, extra: int = 0) -> Tensor | None:
        """[B] int64 steps of each row at `rate` steps per frame; None when what lies behind cannot do harm."""

    def tail(self, x: Tensor, width: int, rate: int) -> Tensor | None:
        """[B, width, C]: the steps before x [B, T, C], whose own last ones are remembered; None: zeros.

        In the type of x, and as far as rows go contiguous.
        """


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

    def tail(self, x: Tensor, width: int, rate: int) -> Tensor | None:
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
        self._offset = 0

    def ends(self, rate: int, extra: int = 0) -> Tensor | None:
        """See Surroundings."""
        return None

    def tail(self, x: Tensor, width: int, rate: int) -> Tensor | None:
        """See Surroundings."""
        if width == 0:
            return None
        layer = TailLayer(width, x.shape[2], rate)
        self.layers.append(layer)
        start, self._offset = self._offset, self._offset + layer.num_values
        return _layer_of(self._zeros.view(x.dtype), start, layer)


class TailLayout:
    """Where the left contexts of all layers lie in a stream's flat vector, one after another."""

    def __init__(self, layers: list[TailLayer], device: torch.device) -> None:
        sizes = torch.tensor([layer.num_values for layer in layers])
        self.num_values = int(sizes.sum())
        place = torch.cat([torch.arange(size) for size in sizes.tolist()])  # within its layer

        def of_each_value(numbers: list[int]) -> Tensor:
            return torch.tensor(numbers).repeat_interleave(sizes)

        width, channels, rate = (of_each_value(list(column)) for column in zip(*layers, strict=True))
        step = place // channels
        first = torch.arange(self.num_values) - step * channels  # the same channel in the layer's first step
        self.width, self.channels, self.rate, self.step, self.first = (
            column.to(device, torch.int32) for column in (width, channels, rate, step, first)
        )
        self.last = self.width - 1
        self._back = torch.arange(-int(width.max()), 0, device=device)

    def back(self, width: int) -> Tensor:
        """[-width, ..., -1]."""
        return self._back[len(self._back) - width :]


class CarriedTails:
    """Left contexts of all layers, asked for in the order in which they run: one flat vector per stream.

    layout:   of the vectors.
    carried:  [B, S] float32, zeros for streams that start.
    frames:   [B] int64, new frames of each row.
    """

    def __init__(self, layout: TailLayout, carried: Tensor, frames: Tensor) -> None:
        self._layout, self._frames = layout, frames
        self._carried = {carried.dtype: carried}
        self._offset = 0
        self._new: list[Tensor] = []
        self._ends: dict[int, Tensor] = {}
        self._places: dict[tuple[int, int], Tensor] = {}

    def ends(self, rate: int, extra: int = 0) -> Tensor | None:
        """See Surroundings: causal layers do not look back from behind the end."""
        return None

    def tail(self, x: Tensor, width: int, rate: int) -> Tensor | None:
        """See Surroundings."""
        if width == 0:
            return None
        layer = TailLayer(width, x.shape[2], rate)
        start, self._offset = self._offset, self._offset + layer.num_values
        last = x.gather(1, self._last_places(width, rate)[:, :, None].expand(-1, -1, layer.channels)).flatten(1)
        unused = layer.num_values - last.shape[1]
        self._new.append(F.pad(last, (0, unused)) if unused else last)
        return _layer_of(self._carried_as(x.dtype), start, layer)

    def _carried_as(self, dtype: torch.dtype) -> Tensor:
        # What a layer of another type left there had that type before: nothing is rounded.
        known = self._carried.get(dtype)
        if known is None:
            known = self._carried[dtype] = self._carried[torch.float32].to(dtype)
        return known

    def _last_places(self, width: int, rate: int) -> Tensor:
        """[B, width] the last steps of each row."""
        known = self._places.get((width, rate))
        if known is None:
            if rate not in self._ends:
                self._ends[rate] = (self._frames * rate)[:, None]
            known = (self._ends[rate] + self._layout.back(width)).clamp_min(0)
            self._places[width, rate] = known
        return known

    def packed(self) -> Tensor:
        """[B, S] the contexts after this call."""
        layout = self._layout
        # Short pieces leave part of the old contexts in place.
        reached = self._frames.int()[:, None] * layout.rate + layout.step
        kept = layout.first + torch.minimum(reached, layout.last) * layout.channels
        return torch.where(reached >= layout.width, self._joined(), self._carried[torch.float32].gather(1, kept.long()))

    def _joined(self) -> Tensor:
        """[B, S] float32: the last steps of all layers, neighbours of one type together."""
        runs = [torch.cat(list(run), dim=1).float() for _, run in groupby(self._new, key=lambda tail: tail.dtype)]
        return torch.cat(runs, dim=1) if len(runs) > 1 else runs[0]


def _layer_of(vectors: Tensor, start: int, layer: TailLayer) -> Tensor:
    """[B, width, C] of one layer that begins at `start` in flat vectors [B, S]."""
    values = vectors[:, start : start + layer.width * layer.channels]
    return values.view(len(vectors), layer.width, layer.channels)
