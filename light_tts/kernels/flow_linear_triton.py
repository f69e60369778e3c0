"""Products with norms before and residuals after, one kernel each. Plain versions: `flow_linear.py`.

Importing this needs Triton. Tiles are small where rows are few, since then a call is bound by the latency of one
program and not by arithmetic; where they are many, a norm and a product of the vendor's library are faster.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from light_tts.kernels.flow_linear import Activation, linear_gelu_plain
from light_tts.kernels.flow_linear_split_triton import can_split, split_linear_residual
from light_tts.kernels.flow_stream import Stream
from light_tts.kernels.flow_stream_triton import stream_norm_linear, takes_norm_linear
from light_tts.kernels.launch_sizes import ceil_div, power_of_2
from light_tts.kernels.triton_math import activate, begin, launch_options, let_next_begin, precision_of

FUSED_ROWS = 256  # with more, norm and product are two kernels: each program would normalise its rows again
_FEW_ROWS = 350  # of a product before a residual
_NORM_ROWS = 4  # of a program of the norm by itself


class Tile(NamedTuple):
    """How a product is cut: rows and columns per program, depth of one step, warps, pipeline stages."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]
def _norm_linear_kernel(
    x: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    matrix: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    eps: tl.tensor,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAPS: tl.constexpr,
) -> None:
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = rows < num_rows, columns < OUT
    depth = tl.arange(0, DEPTH)
    is_depth = depth < IN
    # All loads are on their way before anything waits for one. Without the reshape below, Triton would move the weights
    # to shared memory, and so wait for them, right where they are loaded.
    weight = tl.load(norm_weight + depth, mask=is_depth, other=0.0)
    shift = tl.load(norm_bias + depth, mask=is_depth, other=0.0)
    if HAS_BIAS:
        biases = tl.load(bias + columns, mask=is_column, other=0.0)
    inputs = tl.arange(0, 2)[:, None, None] * (DEPTH // 2) + tl.arange(0, DEPTH // 2)[None, :, None]
    is_weight = is_column[None, None, :] & (inputs < IN)
    halves = tl.load(matrix + columns[None, None, :] * IN + inputs, mask=is_weight, other=0.0)
    begin(OVERLAPS)
    offsets = rows.to(tl.int64)[:, None] * IN + depth[None, :]
    tile = tl.load(x + offsets, mask=is_row[:, None] & is_depth[None, :], other=0.0).to(tl.float32)
    mean = tl.sum(tile, axis=1) / IN
    centred = tl.where(is_depth[None, :], tile - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=1) / IN + eps)
    normed = (centred * scale[:, None] * weight[None, :] + shift[None, :]).to(matrix.dtype.element_ty)
    sums = tl.dot(normed, tl.reshape(halves, [DEPTH, COLUMNS]), input_precision=PRECISION)
    if HAS_BIAS:
        sums += biases.to(tl.float32)[None, :]
    sums = activate(sums, ACTIVATION)
    places = rows.to(tl.int64)[:, None] * OUT + columns[None, :]
    tl.store(out + places, sums.to(out.dtype.element_ty), mask=is_row[:, None] & is_column[None, :])


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]
def _norm_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    places = tl.arange(0, BLOCK)
    is_place = places < WIDTH
    scales = tl.load(weight + places, mask=is_place, other=0.0)
    shifts = tl.load(bias + places, mask=is_place, other=0.0)
    is_inside = (rows < num_rows)[:, None] & is_place[None, :]
    offsets = rows.to(tl.int64)[:, None] * WIDTH + places[None, :]
    tile = tl.load(x + offsets, mask=is_inside, other=0.0).to(tl.float32)
    mean = tl.sum(tile, axis=1) / WIDTH
    centred = tl.where(is_place[None, :], tile - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=1) / WIDTH + eps)
    normed = centred * scale[:, None] * scales[None, :] + shifts[None, :]
    tl.store(out + offsets, normed.to(out.dtype.element_ty), mask=is_inside)


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]
def _linear_residual_kernel(
    x: tl.tensor,
    matrix: tl.tensor,
    bias: tl.tensor,
    residual: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAPS: tl.constexpr,
) -> None:
    let_next_begin(OVERLAPS)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = rows < num_rows, columns < OUT
    is_inside = is_row[:, None] & is_column[None, :]
    places = rows.to(tl.int64)[:, None] * OUT + columns[None, :]
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    depth = tl.arange(0, DEPTH)
    inputs = rows.to(tl.int64)[:, None] * IN
    for start in range(0, IN, DEPTH):
        place = start + depth
        is_depth = place < IN
        tile = tl.load(x + inputs + place[None, :], mask=is_row[:, None] & is_depth[None, :], other=0.0)
        weights = tl.load(
            matrix + columns[None, :] * IN + place[:, None], mask=is_column[None, :] & is_depth[:, None], other=0.0
        )
        sums = tl.dot(tile.to(matrix.dtype.element_ty), weights, sums, input_precision=PRECISION)
    sums += tl.load(bias + columns, mask=is_column, other=0.0).to(tl.float32)[None, :]
    if HAS_RESIDUAL:
        sums += tl.load(residual + places, mask=is_inside, other=0.0)
    tl.store(out + places, sums, mask=is_inside)


@triton.jit  # type: ignore[untyped-decorator]
def _gated_norm_kernel(
    h: tl.tensor,
    update: tl.tensor,
    gate: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    out: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_UPDATE: tl.constexpr,
) -> None:
    start = tl.program_id(0).to(tl.int64) * WIDTH
    places = tl.arange(0, BLOCK)
    is_inside = places < WIDTH
    row = tl.load(h + start + places, mask=is_inside, other=0.0)
    if HAS_UPDATE:
        gates = tl.load(gate + places, mask=is_inside, other=0.0)
        row += gates * tl.load(update + start + places, mask=is_inside, other=0.0).to(tl.float32)
        tl.store(h + start + places, row, mask=is_inside)
    mean = tl.sum(row, axis=0) / WIDTH
    centred = tl.where(is_inside, row - mean, 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred, axis=0) / WIDTH + eps)
    scales = tl.load(scale + places, mask=is_inside, other=0.0)
    shifts = tl.load(shift + places, mask=is_inside, other=0.0)
    tl.store(out + start + places, (normed * scales + shifts).to(out.dtype.element_ty), mask=is_inside)


def _norm_tile(width: int, value_bytes: int) -> Tile:
    depth = max(16, power_of_2(width))
    if value_bytes > 2:
        return Tile(16, 16, depth, 8, 2)  # larger ones do not fit into registers
    return Tile(16, 32, depth, 8, 2) if depth > 256 else Tile(16, 64, depth, 4, 2)


def _residual_tile(num_rows: int, width: int, value_bytes: int) -> Tile:
    """The fastest on an H100, within what every GPU has of shared memory."""
    whole = max(16, power_of_2(width))
    if num_rows <= _FEW_ROWS:
        return Tile(16, 32, min(128, whole), 4, 4)
    depth = min(whole, 128 // value_bytes)
    if num_rows <= 750:
        return Tile(16, 64, min(whole, 2 * depth), 4, 4)
    if num_rows <= 3150:
        return Tile(64, 64, depth, 4, 4)
    return Tile(64, 128, depth, 4, 3)


def norm_linear(
    x: Tensor,
    norm: tuple[Tensor, Tensor, float],
    matrix: Tensor,
    bias: Tensor | None,
    activation: Activation = "none",
    *,
    overlaps: bool = False,
) -> Tensor:
    """See `norm_linear_plain`; everything contiguous, K at most 1024.

    overlaps:  few rows are launched before the kernel before has ended; see `triton_math.begin`.

    Of more than FUSED_ROWS rows and in 16 bits, GELU is its tanh form, which is at most 5e-4 away: rounding moves an
    output of 0.25 as far.
    """
    num_rows, width = x.shape
    if takes_norm_linear(num_rows, matrix):
        return stream_norm_linear(Stream(x), norm, matrix, bias, activation, overlaps=overlaps)[0]
    weight, shift, eps = norm
    num_columns = matrix.shape[0]
    if num_rows > FUSED_ROWS:
        normed = _normed(x, norm, matrix.dtype)
        return _activated_product(normed, matrix, bias, activation)
    out = torch.empty(num_rows, num_columns, dtype=matrix.dtype, device=x.device)
    tile = _norm_tile(width, matrix.element_size())
    grid = (ceil_div(num_rows, tile.rows), ceil_div(num_columns, tile.columns))
    _norm_linear_kernel[grid](
        x,
        weight,
        shift,
        matrix,
        weight if bias is None else bias,
        out,
        num_rows,
        eps,
        IN=width,
        OUT=num_columns,
        HAS_BIAS=bias is not None,
        ACTIVATION=activation,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        PRECISION=precision_of(matrix.dtype),
        num_warps=tile.warps,
        num_stages=tile.stages,
        **launch_options(num_rows, overlaps),
    )
    return out


def _normed(x: Tensor, norm: tuple[Tensor, Tensor, float], dtype: torch.dtype) -> Tensor:
    """LayerNorm(x) [M, K] in `dtype`."""
    num_rows, width = x.shape
    weight, shift, eps = norm
    out = torch.empty(num_rows, width, dtype=dtype, device=x.device)
    block = power_of_2(width)
    _norm_kernel[(ceil_div(num_rows, _NORM_ROWS),)](
        x,
        weight,
        shift,
        out,
        num_rows,
        eps,
        WIDTH=width,
        BLOCK=block,
        ROWS=_NORM_ROWS,
        num_warps=max(1, block // 256),
    )
    return out


def linear_gelu(x: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """See `linear_gelu_plain`; on CUDA one product with the activation in its epilogue."""
    if not x.is_cuda:
        return linear_gelu_plain(x, matrix, bias)
    return torch._addmm_activation(bias, x, matrix.t(), use_gelu=True)


def _activated_product(x: Tensor, matrix: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
    """activation(x W^T + b) by the vendor's library: faster than a kernel of ours where there are many rows."""
    if activation in ("gelu", "gelu_tanh") and bias is not None and matrix.element_size() == 2:
        return linear_gelu(x, matrix, bias)
    out = F.linear(x, matrix, bias)
    if activation == "silu":
        return F.silu(out, inplace=True)
    if activation == "none":
        return out
    return F.gelu(out, approximate="tanh" if activation == "gelu_tanh" else "none")


def linear_residual(
    x: Tensor, matrix: Tensor, bias: Tensor, residual: Tensor | None, *, overlaps: bool = False
) -> Tensor:
    """See `linear_residual_plain`; everything contiguous.

    overlaps:  of few rows, the next kernel may begin while this one runs; launched early itself it would be slower.
    """
    num_rows, width = x.shape
    num_columns = matrix.shape[0]
    if can_split(num_rows, matrix):
        return split_linear_residual(x, matrix, bias, residual, overlaps=overlaps)
    out = torch.empty(num_rows, num_columns, dtype=torch.float32, device=x.device)
    tile = _residual_tile(num_rows, width, matrix.element_size())
    grid = (ceil_div(num_rows, tile.rows), ceil_div(num_columns, tile.columns))
    _linear_residual_kernel[grid](
        x,
        matrix,
        bias,
        out if residual is None else residual,
        out,
        num_rows,
        IN=width,
        OUT=num_columns,
        HAS_RESIDUAL=residual is not None,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        PRECISION=precision_of(matrix.dtype),
        OVERLAPS=overlaps and num_rows <= FUSED_ROWS,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out


def gated_norm(
    h: Tensor,
    update: Tensor | None,
    gate: Tensor,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """See `gated_norm_plain`; `h` is overwritten, everything contiguous."""
    num_rows, width = h.shape
    out = torch.empty(num_rows, width, dtype=dtype, device=h.device)
    block = power_of_2(width)
    _gated_norm_kernel[(num_rows,)](
        h,
        h if update is None else update,
        gate,
        scale,
        shift,
        out,
        eps,
        WIDTH=width,
        BLOCK=block,
        HAS_UPDATE=update is not None,
        num_warps=4,
    )
    return h, out
