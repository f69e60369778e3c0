"""A feed-forward of few rows in one kernel, which leaves its sum in parts. Plain version: `flow_stream.py`.

Each program computes some hidden units of some rows, and what they add to all channels: the rows' sums over all hidden
units are left to whoever reads the stream next.

Importing this needs Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.flow_stream import Stream
from light_tts.kernels.flow_stream_rows_triton import (
    half_of_weights,
    joined_half,
    num_shares,
    product_after_norm,
    stream_input,
    write_share,
)
from light_tts.kernels.launch_sizes import ceil_div
from light_tts.kernels.triton_math import activate, launch_options, take_over

_ROWS = 16  # of a program, the least of a matrix product on tensor cores
_CHUNK = 128  # hidden units of a program
_WARPS = 16


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]
def _feed_forward_kernel(
    x: tl.tensor,
    parts: tl.tensor,
    part_bias: tl.tensor,
    stream: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    hidden: tl.tensor,
    hidden_bias: tl.tensor,
    last: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    eps: tl.tensor,
    PARTS: tl.constexpr,
    HALF: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHUNK: tl.constexpr,
    SHARES: tl.constexpr,
    ROWS: tl.constexpr,
    OVERLAPS: tl.constexpr,
) -> None:
    width: tl.constexpr = 2 * HALF
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    chunk = tl.program_id(1)
    units = chunk * CHUNK + tl.arange(0, CHUNK)
    is_row, is_unit = rows < num_rows, units < HIDDEN
    places = tl.arange(0, HALF)
    left_biases = tl.load(part_bias + places)
    right_biases = tl.load(part_bias + HALF + places)
    left_scale = tl.load(norm_weight + places)
    right_scale = tl.load(norm_weight + HALF + places)
    left_shift = tl.load(norm_bias + places)
    right_shift = tl.load(norm_bias + HALF + places)
    biases = tl.load(hidden_bias + units).to(tl.float32)
    left_weights = half_of_weights(hidden, units, is_unit, 0, HALF, width)
    right_weights = half_of_weights(hidden, units, is_unit, HALF, HALF, width)
    channels = tl.arange(0, width)
    last_weights = half_of_weights(last + chunk * CHUNK, channels, channels < width, 0, CHUNK, HIDDEN)
    take_over(OVERLAPS)
    left = joined_half(x, parts, left_biases, rows, is_row, places, num_rows, PARTS, width)
    right = joined_half(x, parts, right_biases, rows, is_row, HALF + places, num_rows, PARTS, width)
    sums = product_after_norm(
        left, right, left_scale, right_scale, left_shift, right_shift, left_weights, right_weights, eps, HALF, CHUNK
    )
    activated = activate(sums + biases[None, :], "gelu").to(last.dtype.element_ty)
    part = tl.dot(activated, tl.reshape(last_weights, [CHUNK, width]))
    target = out + (chunk * num_rows + rows)[:, None] * width + channels[None, :]
    tl.store(target, part.to(out.dtype.element_ty), mask=is_row[:, None])
    if PARTS > 0:
        write_share(stream, left, right, rows, is_row, chunk, SHARES, HALF)


def can_cut(num_units: int) -> bool:
    """True for numbers of hidden units that make whole chunks."""
    return num_units % _CHUNK == 0 or (32 <= num_units < _CHUNK and num_units & (num_units - 1) == 0)


def feed_forward_parts(
    stream: Stream,
    norm: tuple[Tensor, Tensor, float],
    hidden: tuple[Tensor, Tensor],
    last: tuple[Tensor, Tensor],
    *,
    overlaps: bool = False,
) -> Stream:
    """See `feed_forward_parts_plain`; a part for each 128 hidden units. Everything contiguous, what `can_cut`.

    overlaps:  launched before the kernel before has ended; see `triton_math.begin`.
    """
    num_rows, channels = stream.rows.shape
    weight, shift, eps = norm
    (hidden_matrix, hidden_bias), (last_matrix, last_bias) = hidden, last
    chunk = min(_CHUNK, len(hidden_matrix))
    num_chunks = len(hidden_matrix) // chunk
    given = stream_input(stream, weight)
    parts = torch.empty(num_chunks, num_rows, channels, dtype=last_matrix.dtype, device=last_matrix.device)
    _feed_forward_kernel[(ceil_div(num_rows, _ROWS), num_chunks)](
        given.rows,
        given.parts,
        given.bias,
        given.joined,
        weight,
        shift,
        hidden_matrix,
        hidden_bias,
        last_matrix,
        parts,
        num_rows,
        eps,
        PARTS=given.num_parts,
        HALF=channels // 2,
        HIDDEN=len(hidden_matrix),
        CHUNK=chunk,
        SHARES=num_shares(num_chunks),
        ROWS=_ROWS,
        num_warps=_WARPS,
        **launch_options(num_rows, overlaps),
    )
    return Stream(given.joined, parts, last_bias)
