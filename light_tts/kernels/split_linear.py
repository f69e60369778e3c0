"""Products of a few dozen rows, whose sums may be left in parts for the norm that follows. The plain versions.

Programs that share an output would wait for each other to add up what they have; the norm after the product reads whole
rows in any case, and adds the parts on its way. Weights are [in, out] with an output's numbers side by side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from light_tts.kernels.decoder_rows import rms_norm_plain, silu_mul_plain


def linear_plain(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`rows @ weight + bias` [N, out], all of one dtype; rows [N, in]."""
    return rows @ weight if bias is None else torch.addmm(bias, rows, weight)


def gated_plain(rows: Tensor, weight: Tensor) -> Tensor:
    """`silu(gate) * up` [N, out / 2], where gate and up are the halves of `rows @ weight` [N, out]."""
    return silu_mul_plain(rows @ weight)


def parts_plain(rows: Tensor, weight: Tensor) -> Tensor:
    """[P, N, out] float32 whose sum over P, a number for the kernel to choose, is `rows @ weight`."""
    return (rows.float() @ weight.float())[None]


def add_norm_plain(total: Tensor, parts: Tensor, norm: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Add the parts to `total` [N, C], in its memory, and give `rms_norm(total)` [N, C] in `dtype`.

    norm:  [C] float32, the weights of the norm.
    """
    total.copy_(total.float() + parts.sum(dim=0))
    return rms_norm_plain(total.to(dtype), norm, eps)
