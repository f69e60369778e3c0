"""Layers of the vocoder's generator, time-major: every activation is [B, T, C] with channels innermost.

That layout is what convolution kernels on CPUs and tensor cores like best, it makes the upsampling a plain reshape, and
a left context is a slice of rows. Knows nothing of mels, pitch or serving.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class History:
    """Left contexts of all causal layers of a network, for one call on a batch of streams.

    Layers ask in the order in which they run, so one flat vector per stream holds everything and no layer needs a name.

    carried:  [B, S] the contexts after the previous call (zeros for a stream that starts), or None when all start.
    lengths:  new frames of each row; rows of the batch may be padded on the right up to the longest.
    device:   where the layers run.
    """

    def __init__(self, carried: Tensor | None, lengths: Sequence[int], device: torch.device) -> None:
        self._carried = carried
        self._offset = 0
        self._tails: list[Tensor] = []
        self._uniform = lengths[0] if len(set(lengths)) == 1 else None
        self._lengths = torch.tensor(lengths, device=device)[:, None] if self._uniform is None else None

    def extend(self, x: Tensor, width: int, steps_per_frame: int) -> Tensor:
        """Put the last `width` steps of the previous call before x [B, T, C]; remember the last ones of this call."""
        if width == 0:
            return x
        batch, _, channels = x.shape
        size = width * channels
        if self._carried is None:
            extended = F.pad(x, (0, 0, width, 0))
        else:
            left = self._carried[:, self._offset : self._offset + size].reshape(batch, width, channels)
            extended = torch.cat([left.to(x.dtype), x], dim=1)
        self._offset += size
        # A copy: a view would keep the activations of every layer in memory until the end of the call.
        self._tails.append(self._last_steps(extended, width, steps_per_frame).reshape(batch, size).clone())
        return extended

    def _last_steps(self, extended: Tensor, width: int, steps_per_frame: int) -> Tensor:
        if self._uniform is not None:
            start = self._uniform * steps_per_frame
            return extended[:, start : start + width]
        assert self._lengths is not None
        index = self._lengths * steps_per_frame + torch.arange(width, device=extended.device)
        return extended.gather(1, index[:, :, None].expand(-1, -1, extended.shape[2]))

    def packed(self) -> Tensor:
        """[B, S] the contexts after this call."""
        return torch.cat(self._tails, dim=1)


class Conv(nn.Module):
    """1-d convolution of [B, T, C], with zero padding on both sides, or on the left only ("causal"), or none.

    `weight` is [out, in, 1, kernel] in channels-last memory: a 2-d convolution of height one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        both_sides: int = 0,
        left: int = 0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 1, kernel))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.stride, self.dilation, self.both_sides, self.left = stride, dilation, both_sides, left

    def forward(self, x: Tensor, history: History | None = None, steps_per_frame: int = 1) -> Tensor:
        """x [B, T, in] -> [B, T', out]. With a history the left context comes from there instead of zeros."""
        if self.left:
            x = history.extend(x, self.left, steps_per_frame) if history else F.pad(x, (0, 0, self.left, 0))
        return conv_time_major(x, self.weight, self.bias, self.stride, self.both_sides, self.dilation)


def conv_time_major(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """Convolve x [B, T, in] with weight [out, in, 1, kernel]; both are channels-last, so nothing is copied."""
    y = F.conv2d(x.transpose(1, 2).unsqueeze(2), weight, bias, (1, stride), (0, padding), (1, dilation))
    return y.squeeze(2).transpose(1, 2)


def same_length_conv(in_channels: int, out_channels: int, kernel: int, dilation: int, is_causal: bool) -> Conv:
    """A convolution whose output is as long as its input."""
    reach = (kernel - 1) * dilation
    if is_causal:
        return Conv(in_channels, out_channels, kernel, dilation=dilation, left=reach)
    return Conv(in_channels, out_channels, kernel, dilation=dilation, both_sides=reach // 2)


class Snake(nn.Module):
    """z + sin²(a z) / a with a learned frequency per channel (Ziyin et al. 2020, arXiv:2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(channels))
        self.inverse = torch.empty(0)

    def prepare(self) -> None:
        """Compute 1 / a once; call after the weights are loaded."""
        self.inverse = (1.0 / (self.alpha.float() + 1e-9)).to(self.alpha.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, C] -> the same shape."""
        sine = (x * self.alpha).sin_()
        return (sine * self.inverse).mul_(sine).add_(x)


class ResBlock(nn.Module):
    """Three residual steps of Snake, dilated convolution, Snake, convolution."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int], is_causal: bool) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(same_length_conv(channels, channels, kernel, d, is_causal) for d in dilations)
        self.convs2 = nn.ModuleList(same_length_conv(channels, channels, kernel, 1, is_causal) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: Tensor, history: History | None = None, steps_per_frame: int = 1) -> Tensor:
        """x [B, T, C] -> the same shape; x itself is left as it is."""
        steps = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for activation1, conv1, activation2, conv2 in steps:
            y: Tensor = conv1(activation1(x), history, steps_per_frame)
            y = conv2(activation2(y), history, steps_per_frame)
            x = y.add_(x)
        return x


class Upsample(nn.Module):
    """Raise the rate by an integer factor with one convolution at the low rate that yields `factor` phases per step.

    Stands for a transposed convolution (both sides) or for "repeat each step, then convolve causally": `polyphase`
    rewrites the weights of either. About a fifth of the arithmetic of the latter, and no copy at the high rate.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, factor: int, is_causal: bool) -> None:
        super().__init__()
        first, last = phase_offsets(kernel, factor, is_causal)
        reach = {"left": -first} if is_causal else {"both_sides": -first}
        self.conv = Conv(in_channels, out_channels * factor, last - first + 1, **reach)
        self.factor = factor

    def forward(self, x: Tensor, history: History | None = None, steps_per_frame: int = 1) -> Tensor:
        """x [B, T, in] -> [B, factor * T, out]."""
        y: Tensor = self.conv(x, history, steps_per_frame)
        batch, steps, channels = y.shape
        return y.reshape(batch, steps * self.factor, channels // self.factor)


def phase_offsets(kernel: int, factor: int, is_causal: bool) -> tuple[int, int]:
    """First and last low-rate step, relative to its own, that an upsampled step depends on."""
    if is_causal:
        return -((kernel - 1 + factor - 1) // factor), 0
    padding = (kernel - factor) // 2
    reach = max((kernel - 1 - padding) // factor, (factor - 1 + padding) // factor)
    return -reach, reach


def polyphase(weight: Tensor, bias: Tensor, factor: int, is_causal: bool) -> tuple[Tensor, Tensor]:
    """Weights of an `Upsample`.

    weight:  causal [out, in, kernel] (convolution after repetition), else [in, out, kernel] (transposed convolution
             with padding (kernel - factor) / 2).
    Returns  [factor * out, in, taps] and [factor * out], the phases of one step being adjacent blocks.
    """
    kernel = weight.shape[2]
    first, last = phase_offsets(kernel, factor, is_causal)
    out_first = weight if is_causal else weight.transpose(0, 1)
    phases = weight.new_zeros(factor, out_first.shape[0], out_first.shape[1], last - first + 1)
    for phase in range(factor):
        for tap in range(kernel):
            if is_causal:
                offset = (phase - (kernel - 1) + tap) // factor
            else:
                # Step i feeds sample t = factor * i - padding + tap.
                distance = phase + (kernel - factor) // 2 - tap
                if distance % factor:
                    continue
                offset = distance // factor
            phases[phase, :, :, offset - first] += out_first[:, :, tap]
    return phases.flatten(0, 1), bias.repeat(factor)
