"""What a decoder layer does to each row by itself, between its matrix products. The plain version."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def rms_norm_plain(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x * rsqrt(mean(x^2) + eps) * w` of each row [B, C] in float32; in the dtype of `hidden`. weight [C] float32."""
    return F.rms_norm(hidden.float(), (hidden.shape[-1],), weight, eps).to(hidden.dtype)


def silu_mul_plain(gate_up: Tensor) -> Tensor:
    """[B, 2 * I] -> `silu(first half) * second half` [B, I]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
