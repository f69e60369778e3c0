"""Products of few rows with a weight matrix, together with what comes before and after them. The plain versions.

A decoding step of few sequences is bound by reading the weights once, and by the number of its kernels; so norm, gate
and residual sum belong to the products beside them. Weights are [in, out] with an output's numbers side by side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from light_tts.kernels.decoder_rows import rms_norm_plain, silu_mul_plain


def norm_linear_plain(hidden: Tensor, norm: Tensor, eps: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`rms_norm(hidden) @ weight + bias` [B, out] in the dtype of `weight`.

    hidden:  [B, in]
    norm:    [in] float32, the weights of the norm.
    weight:  [in, out], in the dtype of `hidden` or in float32; bias [out] alike.
    """
    normed = rms_norm_plain(hidden.to(weight.dtype), norm, eps)
    return normed @ weight if bias is None else torch.addmm(bias, normed, weight)


def norm_gated_plain(hidden: Tensor, norm: Tensor, eps: float, weight: Tensor) -> Tensor:
    """`silu(gate) * up` [B, out / 2], where gate and up are the halves of `rms_norm(hidden) @ weight` [B, out]."""
    return silu_mul_plain(norm_linear_plain(hidden, norm, eps, weight, None))


def linear_add_plain(total: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    """`total + rows @ weight` in the memory of `total` [B, out]; rows [B, in]."""
    return total.addmm_(rows, weight)
