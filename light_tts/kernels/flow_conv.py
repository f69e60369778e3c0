"""Causal convolutions over frames whose past lies in pages, with what follows them in a block. The plain version.

Time-major: rows g * R + r (guidance row g of sequence r) of T frames. The last inputs of finished chunks are kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class ConvTails(NamedTuple):
    """Where a convolution finds the inputs before its first frame, and leaves those at the ends of chunks.

    kept:        [pages, G, V], the `left` last inputs of each chunk from `place` on, one frame after the other.
    last:        [R] int32, the page before the first frame, or -1: zeros.
    saves:       [R, C] int32, the page of each chunk of new frames, or -1.
    page_steps:  frames of a chunk, not fewer than `left`.
    """

    kept: Tensor
    place: int
    last: Tensor
    saves: Tensor
    page_steps: int


class ConvWeights(NamedTuple):
    """A causal convolution of `groups` groups, `taps` frames wide.

    matrix:  [out, taps * in of a group], the inputs of the oldest frame first.   bias: [out].
    norm:    weight and bias [out] float32 and epsilon of a LayerNorm over the outputs (with one group), or None.
    """

    matrix: Tensor
    bias: Tensor
    taps: int
    groups: int = 1
    norm: tuple[Tensor, Tensor, float] | None = None


class ConvExtras(NamedTuple):
    """What is done with the result, in this order.

    mish:      apply Mish.
    added:     [out] float32, added to every frame.
    shortcut:  (input [B, T, in'], matrix [out, in'], bias [out]) of a 1x1 convolution that is added.
    residual:  [B, T, out] float32, added.
    """

    mish: bool = False
    added: Tensor | None = None
    shortcut: tuple[Tensor, Tensor, Tensor] | None = None
    residual: Tensor | None = None

    def shortcut_or(self, x: Tensor, weights: ConvWeights) -> tuple[Tensor, Tensor, Tensor]:
        """The shortcut; for kernels, which take no None, the convolution's own where there is none to be read."""
        return (x, weights.matrix, weights.bias) if self.shortcut is None else self.shortcut


def paged_conv_plain(
    x: Tensor, weights: ConvWeights, tails: ConvTails, extras: ConvExtras, dtype: torch.dtype
) -> Tensor:
    """Convolve x [B, T, in], norm, and add the extras; keep the inputs at the ends of chunks that have a page.

    Inputs are rounded to the type of the matrix, sums are float32. Returns [B, T, out] in `dtype`.
    """
    batch, steps, channels = x.shape
    left, sequences = weights.taps - 1, tails.last.shape[0]
    rounded = x.to(weights.matrix.dtype)
    kept = tails.kept[:, :, tails.place : tails.place + left * channels]
    before = torch.where((tails.last >= 0)[:, None, None], kept[tails.last.clamp_min(0).long()], 0.0)
    before = before.transpose(0, 1).reshape(batch, left, channels)
    extended = torch.cat([before, rounded], dim=1)
    for sequence, chunk in (tails.saves >= 0).nonzero().tolist():
        end = (chunk + 1) * tails.page_steps
        if end <= steps:
            kept[int(tails.saves[sequence, chunk])] = extended[sequence::sequences, end : end + left].flatten(1)
    kernel = weights.matrix.view(len(weights.matrix), weights.taps, -1).transpose(1, 2).float()
    convolved = F.conv1d(extended.transpose(1, 2).float(), kernel, weights.bias.float(), groups=weights.groups)
    y = convolved.transpose(1, 2)
    if weights.norm is not None:
        weight, bias, eps = weights.norm
        y = F.layer_norm(y, y.shape[-1:], weight, bias, eps)
    if extras.mish:
        y = F.mish(y)
    if extras.added is not None:
        y = y + extras.added
    if extras.shortcut is not None:
        given, matrix, bias = extras.shortcut
        y = y + F.linear(given.to(matrix.dtype).float(), matrix.float(), bias.float())
    if extras.residual is not None:
        y = y + extras.residual
    return y.to(dtype)
