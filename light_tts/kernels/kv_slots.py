"""Slots of a KV cache: the keys and then the values of one token, as numbers, or in int8 with a scale of each head.

In int8 a slot holds the codes of all heads and behind them their scales as the bytes of float32. So a cache in int8 is
one tensor of slots like any other, and goes wherever one does. What is attended is what is stored, a token's own key
and value too: whether a token is computed in a prompt or by itself then makes no difference.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_CODE = 127.0
LEAST_SCALE = 1e-30  # a smaller number would be computed with in float64 in a kernel
SCALE_BYTES = torch.float32.itemsize  # of a head


def slot_width(num_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Numbers of a slot in a cache of `dtype`. num_heads: of keys and values together."""
    return num_heads * (head_dim + (SCALE_BYTES if dtype == torch.int8 else 0))


def to_slots(heads: Tensor, dtype: torch.dtype) -> Tensor:
    """[N, num_heads, head_dim] -> slots [N, slot_width] for a cache of `dtype`, int8 or that of `heads`."""
    if dtype != torch.int8:
        return heads.flatten(1)
    exact = heads.float()
    scales = (exact.abs().amax(dim=-1) / MOST_CODE).clamp_(min=LEAST_SCALE)
    codes = (exact / scales[..., None]).round_().clamp_(-MOST_CODE, MOST_CODE).to(torch.int8)
    return torch.cat([codes.flatten(1), scales.view(torch.int8)], dim=1)


def from_slots(slots: Tensor, num_heads: int, head_dim: int, dtype: torch.dtype) -> Tensor:
    """Slots [..., slot_width] -> [..., num_heads, head_dim] in `dtype`, which is that of slots not in int8."""
    if slots.dtype != torch.int8:
        numbers: Tensor = slots.unflatten(-1, (num_heads, head_dim))
        return numbers
    codes: Tensor = slots[..., : num_heads * head_dim].unflatten(-1, (num_heads, head_dim))
    scales = slots[..., num_heads * head_dim :].contiguous().view(torch.float32)
    return (codes.float() * scales[..., None]).to(dtype)
