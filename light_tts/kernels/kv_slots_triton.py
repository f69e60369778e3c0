"""Int8 slots of a KV cache (`kv_slots.py`), read and written inside other kernels. Importing this needs Triton."""

from __future__ import annotations

import triton
import triton.language as tl

from light_tts.kernels.kv_slots import LEAST_SCALE, MOST_CODE

_MOST_CODE = tl.constexpr(MOST_CODE)
_LEAST_SCALE = tl.constexpr(LEAST_SCALE)
_ROUNDER = tl.constexpr(1.5 * 2.0**23)


@triton.jit  # type: ignore[untyped-decorator]
def round_and_store(
    values: tl.tensor, slot: tl.tensor, head: tl.tensor, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr
) -> tl.tensor:
    """Store one head [HEAD_DIM] in its place of a slot; returns what its codes stand for, in float32.

    HEADS:  of keys and values together.
    """
    exact = values.to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(exact), axis=0) / _MOST_CODE, _LEAST_SCALE)
    code = _codes(exact, scale)
    tl.store(slot + head * HEAD_DIM + tl.arange(0, HEAD_DIM), code)
    tl.store((slot + HEADS * HEAD_DIM).to(tl.pointer_type(tl.float32)) + head, scale)
    return code.to(tl.float32) * scale


@triton.jit  # type: ignore[untyped-decorator]
def round_pairs(
    first: tl.tensor,
    second: tl.tensor,
    slot: tl.tensor,
    heads: tl.tensor,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
) -> tl.tensor:
    """Codes of the even and the odd numbers of some heads, [heads, HEAD_DIM / 2] each; the scales are stored.

    heads:  which of a slot; those outside are left alone.
    HEADS:  of keys and values together.
    """
    even, odd = first.to(tl.float32), second.to(tl.float32)
    largest = tl.maximum(tl.max(tl.abs(even), axis=1), tl.max(tl.abs(odd), axis=1))
    scale = tl.maximum(largest / _MOST_CODE, _LEAST_SCALE)
    place = (slot + HEADS * HEAD_DIM).to(tl.pointer_type(tl.float32)) + heads
    tl.store(place, scale, mask=(heads >= 0) & (heads < HEADS))
    return _codes(even, scale[:, None]), _codes(odd, scale[:, None])


@triton.jit  # type: ignore[untyped-decorator]
def round_steps(steps: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """One head of some steps [N, HEAD_DIM] -> codes and scales [N], in float32."""
    exact = steps.to(tl.float32)
    scales = tl.maximum(tl.max(tl.abs(exact), axis=1) / _MOST_CODE, _LEAST_SCALE)
    # To the nearest integer: the sum has no bits for less. Several times as fast as rounding and clamping.
    return exact * (1.0 / scales)[:, None] + _ROUNDER - _ROUNDER, scales


@triton.jit  # type: ignore[untyped-decorator]
def as_kept(steps: tl.tensor) -> tl.tensor:
    """One head of some steps [N, HEAD_DIM] as it would be found again."""
    codes, scales = round_steps(steps)
    return codes.to(steps.dtype) * scales.to(steps.dtype)[:, None]


@triton.jit  # type: ignore[untyped-decorator]
def store_scales(
    slots: tl.tensor,
    scales: tl.tensor,
    is_stored: tl.tensor,
    head: tl.tensor,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
) -> None:
    """Scales [N] of one head into slots [N], given by their places in memory."""
    tl.store((slots + HEADS * HEAD_DIM).to(tl.pointer_type(tl.float32)) + head, scales, mask=is_stored)


@triton.jit  # type: ignore[untyped-decorator]
def _codes(exact: tl.tensor, scale: tl.tensor) -> tl.tensor:
    return tl.minimum(tl.maximum(tl.floor(exact / scale + 0.5), -_MOST_CODE), _MOST_CODE).to(tl.int8)


@triton.jit  # type: ignore[untyped-decorator]
def scales_of(
    slots: tl.tensor, is_held: tl.tensor, head: tl.tensor, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr
) -> tl.tensor:
    """Scales of one head in slots [N], given by their places in memory; 0 where none is held."""
    return tl.load((slots + HEADS * HEAD_DIM).to(tl.pointer_type(tl.float32)) + head, mask=is_held, other=0.0)
