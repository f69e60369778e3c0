"""What kernels do with a residual stream in parts (`flow_stream.py`): add it up, norm and multiply it, write the sum.

Channels come in two halves: two products run side by side, and a row of a half fits the lanes of a warp. Every program
of a tile of rows adds up all parts, always in the same order; each then writes some channels of the sum.

Importing this needs Triton.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.flow_stream import Stream

_MOST_SHARES = 8


@triton.jit  # type: ignore[untyped-decorator]
def half_of_weights(
    matrix: tl.tensor,
    columns: tl.tensor,
    is_column: tl.tensor,
    first: tl.constexpr,
    HALF: tl.constexpr,
    IN: tl.constexpr,
) -> tl.tensor:
    """Weights [2, HALF / 2, columns] of the inputs from `first` on.

    The reshape to [HALF, columns] that follows keeps Triton from leaving them in shared memory: they wait in the
    registers of the matrix product.
    """
    inputs = first + tl.arange(0, 2)[:, None, None] * (HALF // 2) + tl.arange(0, HALF // 2)[None, :, None]
    return tl.load(matrix + columns[None, None, :] * IN + inputs, mask=is_column[None, None, :], other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def joined_half(
    x: tl.tensor,
    parts: tl.tensor,
    biases: tl.tensor,
    rows: tl.tensor,
    is_row: tl.tensor,
    places: tl.tensor,
    num_rows: tl.tensor,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> tl.tensor:
    """Channels `places` of some rows of the sum, float32; biases: of these channels."""
    offsets = rows[:, None] * WIDTH + places[None, :]
    half = tl.load(x + offsets, mask=is_row[:, None], other=0.0).to(tl.float32)
    if PARTS > 0:
        for part in tl.static_range(PARTS):
            half += tl.load(parts + part * num_rows * WIDTH + offsets, mask=is_row[:, None], other=0.0).to(tl.float32)
        half += biases.to(tl.float32)[None, :]
    return half


@triton.jit  # type: ignore[untyped-decorator]
def product_after_norm(
    left: tl.tensor,
    right: tl.tensor,
    left_scale: tl.tensor,
    right_scale: tl.tensor,
    left_shift: tl.tensor,
    right_shift: tl.tensor,
    left_weights: tl.tensor,
    right_weights: tl.tensor,
    eps: tl.tensor,
    HALF: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> tl.tensor:
    """LayerNorm(x) W^T of halves [N, HALF] of rows; weights: see `half_of_weights`."""
    kind: tl.constexpr = left_weights.dtype
    mean = tl.sum(left + right, axis=1) / (2 * HALF)
    left -= mean[:, None]
    right -= mean[:, None]
    scale = tl.rsqrt(tl.sum(left * left + right * right, axis=1) / (2 * HALF) + eps)[:, None]
    left_normed = (left * scale * left_scale[None, :] + left_shift[None, :]).to(kind)
    right_normed = (right * scale * right_scale[None, :] + right_shift[None, :]).to(kind)
    sums = tl.dot(left_normed, tl.reshape(left_weights, [HALF, COLUMNS]))
    return sums + tl.dot(right_normed, tl.reshape(right_weights, [HALF, COLUMNS]))


@triton.jit  # type: ignore[untyped-decorator]
def write_share(
    stream: tl.tensor,
    left: tl.tensor,
    right: tl.tensor,
    rows: tl.tensor,
    is_row: tl.tensor,
    share: tl.tensor,
    SHARES: tl.constexpr,
    HALF: tl.constexpr,
) -> None:
    """Write the channels of one of SHARES programs of a tile of rows."""
    places = tl.arange(0, HALF)
    is_own = is_row[:, None] & (places // (HALF // SHARES) == share)[None, :]
    target = stream + rows[:, None] * (2 * HALF) + places[None, :]
    tl.store(target, left, mask=is_own)
    tl.store(target + HALF, right, mask=is_own)


class StreamInput(NamedTuple):
    """What a kernel is told of a stream, and where its sum goes."""

    rows: Tensor
    parts: Tensor
    bias: Tensor
    num_parts: int
    joined: Tensor


def stream_input(stream: Stream, any_bias: Tensor) -> StreamInput:
    """any_bias:  [C], stands where there is none; never counts."""
    if stream.parts is None or stream.bias is None:
        return StreamInput(stream.rows, stream.rows, any_bias, 0, stream.rows)
    return StreamInput(stream.rows, stream.parts, stream.bias, len(stream.parts), torch.empty_like(stream.rows))


def num_shares(num_programs: int) -> int:
    """How many programs of a tile of rows write the sum: a power of 2."""
    return min(_MOST_SHARES, 1 << num_programs.bit_length() - 1)
