"""What the kernels of quantised products share: codes into numbers, and what follows the sums. Importing needs Triton.

fp8 codes become float16 by their bits, which every GPU can; exponents count from another start there, so that what
comes out lacks a factor of 2^8.
"""

from __future__ import annotations

import triton
import triton.language as tl

FP8_FACTOR = 2.0**8


@triton.jit  # type: ignore[untyped-decorator]
def number(code: tl.tensor, IS_FP8: tl.constexpr, DTYPE: tl.constexpr) -> tl.tensor:
    """An int8 code as it is; an fp8 code, given as a byte, without its factor 2^8."""
    if IS_FP8:
        byte = code.to(tl.uint16)
        bits = ((byte & 0x80) << 8) | ((byte & 0x7F) << 7)
        value = bits.to(tl.float16, bitcast=True).to(DTYPE)
    else:
        value = code.to(DTYPE)
    return value


@triton.jit  # type: ignore[untyped-decorator]
def halves(pair: tl.tensor, DTYPE: tl.constexpr) -> tl.tensor:
    """Low and high code of bytes of int4."""
    low = ((pair & 15).to(tl.int8) - 8).to(DTYPE)
    high = ((pair >> 4).to(tl.int8) - 8).to(DTYPE)
    return low, high


@triton.jit  # type: ignore[untyped-decorator]
def complete(
    sums: tl.tensor,
    ups: tl.tensor,
    squares: tl.tensor,
    members: tl.tensor,
    outputs: tl.tensor,
    num_rows: tl.tensor,
    num_inputs: tl.tensor,
    num_outputs: tl.tensor,
    base: tl.tensor,
    base_stride: tl.tensor,
    out: tl.tensor,
    eps: tl.tensor,
    HAS_NORM: tl.constexpr,
    IS_GATED: tl.constexpr,
    HAS_BASE: tl.constexpr,
) -> None:
    """The scale of the norm, the gate, the base; then the store of [members, outputs]. Rounds as the plain versions."""
    is_inside = (members < num_rows)[:, None] & (outputs < num_outputs)[None, :]
    kind = out.dtype.element_ty
    if HAS_NORM:
        scale = tl.rsqrt(squares / num_inputs + eps)[:, None]
        sums = sums * scale
        ups = ups * scale
    if IS_GATED:
        gate = sums.to(kind).to(tl.float32)
        silu = (gate / (1.0 + tl.exp(-gate))).to(kind).to(tl.float32)
        sums = silu * ups.to(kind).to(tl.float32)
    if HAS_BASE:
        place = base + members[:, None] * base_stride + outputs[None, :]
        sums += tl.load(place, mask=is_inside, other=0.0).to(tl.float32)
    tl.store(out + members[:, None] * num_outputs + outputs[None, :], sums.to(kind), mask=is_inside)
