"""A convolution of the vocoder's generator with everything around it: context, sums, activation, ends of rows.

The plain version, and what both versions agree on. `hift_conv_triton.py` computes the same in one kernel.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class ConvWeights(NamedTuple):
    """taps: [K, in, out] in the type of the steps that are convolved; bias: [out] float32."""

    taps: Tensor
    bias: Tensor
    dilation: int = 1


class Activation(NamedTuple):
    """What is applied to the sum.

    kind:   "leaky" has a slope, "snake" a frequency per channel and its inverse, [C] float32 each.
    dtype:  of the result.
    """

    kind: Literal["none", "leaky", "snake"] = "none"
    dtype: torch.dtype = torch.float32
    slope: float = 0.0
    alpha: Tensor | None = None
    inverse: Tensor | None = None


class Epilogue(NamedTuple):
    """What happens to the products of a convolution: (products + bias + residuals) * scale, then the activation.

    residuals:   up to three, [B, T, out] of one type.
    activation:  None: only the sum is wanted.
    keeps_sum:   False: only the activated sum is wanted.
    ends:        [B] int64: sum and activation are zero from these steps on; None: nowhere.
    sum_dtype:   of the sum that is kept; what is activated was not rounded to it.
    """

    residuals: tuple[Tensor, ...] = ()
    scale: float = 1.0
    activation: Activation | None = None
    keeps_sum: bool = True
    ends: Tensor | None = None
    sum_dtype: torch.dtype = torch.float32


class Tail(NamedTuple):
    """What lies before a piece of a stream, and where that of the next piece goes. Both are contiguous in each row.

    before:  [B, width, C] in the type of the piece.
    after:   [B, width, C] float32, written to: the steps before each row's end.
    ends:    [B] int64: so many steps of the piece count, at least 0.
    """

    before: Tensor
    after: Tensor
    ends: Tensor


def conv_plain(
    x: Tensor, weights: ConvWeights, epilogue: Epilogue, *, left: int = 0, right: int = 0, tail: Tail | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """Convolve x [B, T, in] along T with `left` and `right` steps of context around it.

    tail:  of `left` steps; what it says is also kept. None: zeros lie before x. After x there are zeros.
    Whatever the types of x, taps and residuals, additions are float32.
    Returns (sum [B, T + left + right - (K - 1) * dilation, out], activated sum), None where not wanted.
    """
    if tail is not None:
        keep_plain(x, tail)
        x = torch.cat([tail.before, x], dim=1)
        left = 0
    x = F.pad(x, (0, 0, left, right))
    kernel = weights.taps.permute(2, 1, 0)[:, :, None]
    y = F.conv2d(x.float().transpose(1, 2)[:, :, None], kernel.float(), dilation=(1, weights.dilation))
    total = y[:, :, 0].transpose(1, 2) + weights.bias
    for residual in epilogue.residuals:
        total = total + residual
    total = total * epilogue.scale
    if epilogue.ends is not None:
        inside = torch.arange(total.shape[1], device=x.device) < epilogue.ends[:, None]
        total = total * inside[:, :, None]
    wanted = epilogue.activation
    activated = None if wanted is None else activate_plain(total, wanted)
    return (total.to(epilogue.sum_dtype) if epilogue.keeps_sum else None), activated


def keep_plain(x: Tensor, tail: Tail) -> None:
    """Write what lies before the next piece: the last steps of x [B, T, C], where it is short also those before it."""
    width = tail.before.shape[1]
    places = (tail.ends[:, None] - width + torch.arange(width, device=x.device))[:, :, None]
    new = x.gather(1, places.clamp_min(0).expand(tail.before.shape))
    old = tail.before.gather(1, (places + width).clamp_max(width - 1).expand(tail.before.shape))
    tail.after.copy_(torch.where(places < 0, old, new))


def activate_plain(total: Tensor, activation: Activation) -> Tensor:
    """[B, T, C] float32 -> the same shape in the activation's dtype."""
    if activation.kind == "leaky":
        return F.leaky_relu(total, activation.slope).to(activation.dtype)
    if activation.kind == "none":
        return total.to(activation.dtype)
    assert activation.alpha is not None
    assert activation.inverse is not None
    sine = torch.sin(total * activation.alpha)
    return (total + sine * sine * activation.inverse).to(activation.dtype)


def snakes_plain(x: Tensor, alphas: Tensor, inverses: Tensor, dtype: torch.dtype) -> Tensor:
    """Several Snakes of one input: x [B, T, C], alphas and inverses [n, C] -> [n, B, T, C] in `dtype`."""
    x = x.float()
    sine = torch.sin(x * alphas[:, None, None])
    return (x + sine * sine * inverses[:, None, None]).to(dtype)
