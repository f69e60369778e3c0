"""The work between a decoder layer's matrix products, one kernel each. Plain version: `decoder_rows.py`.

Importing this needs Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.launch_sizes import ceil_div, power_of_2

_SILU_BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _rms_norm_kernel(
    hidden: tl.tensor, weight: tl.tensor, out: tl.tensor, eps: tl.tensor, WIDTH: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    start = tl.program_id(0).to(tl.int64) * WIDTH
    places = tl.arange(0, BLOCK)
    is_inside = places < WIDTH
    row = tl.load(hidden + start + places, mask=is_inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(row * row, axis=0) / WIDTH + eps)
    normed = row * scale * tl.load(weight + places, mask=is_inside, other=0.0)
    tl.store(out + start + places, normed.to(out.dtype.element_ty), mask=is_inside)


@triton.jit  # type: ignore[untyped-decorator]
def _silu_mul_kernel(gate_up: tl.tensor, out: tl.tensor, WIDTH: tl.constexpr, BLOCK: tl.constexpr) -> None:
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_inside = places < WIDTH
    source = gate_up + row * 2 * WIDTH + places
    gate = tl.load(source, mask=is_inside, other=0.0).to(tl.float32)
    up = tl.load(source + WIDTH, mask=is_inside, other=0.0).to(tl.float32)
    # Rounded between the two operations, as the plain version does.
    silu = (gate / (1.0 + tl.exp(-gate))).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * WIDTH + places, (silu * up).to(out.dtype.element_ty), mask=is_inside)


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `rms_norm_plain`; `hidden` must be contiguous."""
    num_rows, width = hidden.shape
    out = torch.empty_like(hidden)
    block = power_of_2(width)
    _rms_norm_kernel[(num_rows,)](hidden, weight, out, eps, WIDTH=width, BLOCK=block, num_warps=4)
    return out


def silu_mul(gate_up: Tensor) -> Tensor:
    """See `silu_mul_plain`; `gate_up` must be contiguous."""
    num_rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(num_rows, width, dtype=gate_up.dtype, device=gate_up.device)
    _silu_mul_kernel[(num_rows, ceil_div(width, _SILU_BLOCK))](gate_up, out, WIDTH=width, BLOCK=_SILU_BLOCK)
    return out
