"""Matrix products of a transformer block with what surrounds them: the norm before, the residual after. Plain versions.

M rows; matrices are [out, in] as in `torch.nn.Linear`; sums and norms in float32.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Activation = Literal["none", "gelu", "gelu_tanh", "silu"]


def norm_linear_plain(
    x: Tensor,
    norm: tuple[Tensor, Tensor, float],
    matrix: Tensor,
    bias: Tensor | None,
    activation: Activation = "none",
) -> Tensor:
    """activation(LayerNorm(x) W^T + b): x [M, K] -> [M, N] in the type of the matrix.

    norm:  weight [K] and bias [K] float32, epsilon.
    """
    weight, shift, eps = norm
    normed = F.layer_norm(x.float(), x.shape[-1:], weight, shift, eps).to(matrix.dtype)
    out = F.linear(normed, matrix, bias)
    if activation == "none":
        return out
    if activation == "silu":
        return F.silu(out)
    return F.gelu(out, approximate="tanh" if activation == "gelu_tanh" else "none")


def linear_gelu_plain(x: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """gelu(x W^T + b), approximated by tanh: x [M, K] -> [M, N]."""
    return F.gelu(F.linear(x, matrix, bias), approximate="tanh")


def linear_residual_plain(x: Tensor, matrix: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    """x W^T + b + residual: x [M, K], residual [M, N] float32 -> [M, N] float32."""
    out = F.linear(x.to(matrix.dtype), matrix, bias).float()
    return out if residual is None else residual + out


def gated_norm_plain(
    h: Tensor, update: Tensor | None, gate: Tensor, scale: Tensor, shift: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """h + gate * update, and its LayerNorm (without parameters) times scale plus shift.

    h:       [M, D] float32, the residual stream; may be overwritten.
    update:  [M, D], or None: h stays.
    gate, scale, shift:  [D] float32.
    Returns the new residual stream [M, D] float32 and the norm [M, D] in `dtype`.
    """
    if update is not None:
        h = torch.addcmul(h, gate, update.float())
    return h, torch.addcmul(shift, F.layer_norm(h, h.shape[-1:], eps=eps), scale).to(dtype)
