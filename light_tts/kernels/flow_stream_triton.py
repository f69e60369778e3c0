"""Products of few rows after a norm, of a residual stream that may be in parts. Plain versions: `flow_stream.py`.

A call of few rows is bound by what its kernels wait for, one after the other. Here weights are in registers before the
kernel in front has ended; then the rows are one load away.

Importing this needs Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.flow_attention_few_triton import takes_attention_parts
from light_tts.kernels.flow_feed_forward_triton import can_cut
from light_tts.kernels.flow_linear import Activation
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
from light_tts.kernels.triton_math import activate, launch_options, let_next_begin, wait_for_former

_ROWS = 16  # of a program, the least of a matrix product on tensor cores
_COLUMNS = 128  # of a program
_WARPS = 8
_MOST_CHANNELS = 256  # with more, registers do not hold a program's weights
_MOST_ROWS = 256  # with more, programs are more than multiprocessors
_MOST_NARROW_ROWS, _NARROW = 400, 1024  # of a product of fewer outputs
_MOST_STREAM_ROWS = 300  # of whole blocks in parts


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]
def _stream_norm_linear_kernel(
    x: tl.tensor,
    parts: tl.tensor,
    part_bias: tl.tensor,
    stream: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    matrix: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    eps: tl.tensor,
    PARTS: tl.constexpr,
    HALF: tl.constexpr,
    OUT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SHARES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    OVERLAPS: tl.constexpr,
) -> None:
    let_next_begin(OVERLAPS)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = rows < num_rows, columns < OUT
    places = tl.arange(0, HALF)
    left_biases = tl.load(part_bias + places)
    right_biases = tl.load(part_bias + HALF + places)
    left_scale = tl.load(norm_weight + places)
    right_scale = tl.load(norm_weight + HALF + places)
    left_shift = tl.load(norm_bias + places)
    right_shift = tl.load(norm_bias + HALF + places)
    left_weights = half_of_weights(matrix, columns, is_column, 0, HALF, 2 * HALF)
    right_weights = half_of_weights(matrix, columns, is_column, HALF, HALF, 2 * HALF)
    if HAS_BIAS:
        biases = tl.load(bias + columns, mask=is_column, other=0.0).to(tl.float32)
    wait_for_former(OVERLAPS)
    left = joined_half(x, parts, left_biases, rows, is_row, places, num_rows, PARTS, 2 * HALF)
    right = joined_half(x, parts, right_biases, rows, is_row, HALF + places, num_rows, PARTS, 2 * HALF)
    sums = product_after_norm(
        left, right, left_scale, right_scale, left_shift, right_shift, left_weights, right_weights, eps, HALF, COLUMNS
    )
    if HAS_BIAS:
        sums += biases[None, :]
    sums = activate(sums, ACTIVATION)
    is_inside = is_row[:, None] & is_column[None, :]
    tl.store(out + rows[:, None] * OUT + columns[None, :], sums.to(out.dtype.element_ty), mask=is_inside)
    if PARTS > 0:
        write_share(stream, left, right, rows, is_row, tl.program_id(1), SHARES, HALF)


def takes_norm_linear(num_rows: int, matrix: Tensor) -> bool:
    """True where `stream_norm_linear` is faster on an H200 than what has more rows in mind; with parts or without."""
    outputs, channels = matrix.shape
    is_whole = 32 <= channels <= _MOST_CHANNELS and channels & (channels - 1) == 0
    most_rows = _MOST_NARROW_ROWS if outputs <= _NARROW else _MOST_ROWS
    return matrix.element_size() == 2 and is_whole and num_rows <= most_rows


def takes_stream(rows: int, steps: int, heads: int, hidden: Tensor) -> bool:
    """True where blocks in parts are faster on an H200 than blocks in one piece.

    rows, steps:  of attention, in which there are so many heads.
    hidden:       [F, C], matrix of the first product of the feed-forward.
    """
    is_few = rows * steps <= _MOST_STREAM_ROWS and takes_attention_parts(rows, steps, heads, hidden)
    return is_few and takes_norm_linear(rows * steps, hidden) and can_cut(len(hidden))


def stream_norm_linear(
    stream: Stream,
    norm: tuple[Tensor, Tensor, float],
    matrix: Tensor,
    bias: Tensor | None,
    activation: Activation = "none",
    *,
    overlaps: bool = False,
) -> tuple[Tensor, Stream]:
    """See `stream_norm_linear_plain`; everything contiguous, what `takes_norm_linear`.

    overlaps:  launched before the kernel before has ended; see `triton_math.begin`.
    """
    num_rows, channels = stream.rows.shape
    weight, shift, eps = norm
    num_columns = len(matrix)
    given = stream_input(stream, weight)
    out = torch.empty(num_rows, num_columns, dtype=matrix.dtype, device=matrix.device)
    tiles = ceil_div(num_columns, _COLUMNS)
    _stream_norm_linear_kernel[(ceil_div(num_rows, _ROWS), tiles)](
        given.rows,
        given.parts,
        given.bias,
        given.joined,
        weight,
        shift,
        matrix,
        weight if bias is None else bias,
        out,
        num_rows,
        eps,
        PARTS=given.num_parts,
        HALF=channels // 2,
        OUT=num_columns,
        HAS_BIAS=bias is not None,
        ACTIVATION=activation,
        SHARES=num_shares(tiles),
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
        num_warps=_WARPS,
        **launch_options(num_rows, overlaps),
    )
    return out, Stream(given.joined)
