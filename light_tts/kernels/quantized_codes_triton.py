"""Codes of quantised matrices into numbers, inside other kernels. Importing this needs Triton.

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
