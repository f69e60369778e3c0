"""Products with norms before and residuals after, one kernel each. Plain versions: `flow_linear.py`.

Importing this needs Triton. Tiles are small where rows are few, since then a call is bound by the latency of one
program and not by arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.flow_linear import Activation
from light_tts.kernels.triton_math import activate, begin, has_large_shared_memory, launch_options, precision_of


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
    COLUMN_TILES: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAPS: tl.constexpr,
) -> None:
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = rows < num_rows
    depth = tl.arange(0, DEPTH)
    is_depth = depth < IN
    first_column = tl.program_id(1) * COLUMN_TILES * COLUMNS
    columns = first_column + tl.arange(0, COLUMNS)
    if COLUMN_TILES == 1:
        # On its way while the rows are normalised.
        is_weight = (columns[None, :] < OUT) & is_depth[:, None]
        weights = tl.load(matrix + columns[None, :] * IN + depth[:, None], mask=is_weight, other=0.0)
    weight = tl.load(norm_weight + depth, mask=is_depth, other=0.0)
    shift = tl.load(norm_bias + depth, mask=is_depth, other=0.0)
    begin(OVERLAPS)
    offsets = rows.to(tl.int64)[:, None] * IN + depth[None, :]
    tile = tl.load(x + offsets, mask=is_row[:, None] & is_depth[None, :], other=0.0).to(tl.float32)
    mean = tl.sum(tile, axis=1) / IN
    centred = tl.where(is_depth[None, :], tile - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=1) / IN + eps)
    normed = (centred * scale[:, None] * weight[None, :] + shift[None, :]).to(matrix.dtype.element_ty)
    for _ in range(COLUMN_TILES):
        is_column = columns < OUT
        if COLUMN_TILES > 1:
            is_weight = is_column[None, :] & is_depth[:, None]
            weights = tl.load(matrix + columns[None, :] * IN + depth[:, None], mask=is_weight, other=0.0)
        sums = tl.dot(normed, weights, input_precision=PRECISION)
        if HAS_BIAS:
            sums += tl.load(bias + columns, mask=is_column, other=0.0).to(tl.float32)[None, :]
        sums = activate(sums, ACTIVATION)
        places = rows.to(tl.int64)[:, None] * OUT + columns[None, :]
        tl.store(out + places, sums.to(out.dtype.element_ty), mask=is_row[:, None] & is_column[None, :])
        columns += COLUMNS


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
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = rows < num_rows, columns < OUT
    is_inside = is_row[:, None] & is_column[None, :]
    places = rows.to(tl.int64)[:, None] * OUT + columns[None, :]
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    depth = tl.arange(0, DEPTH)
    inputs = rows.to(tl.int64)[:, None] * IN
    if DEPTH >= IN:
        is_depth = depth < IN
        weights = tl.load(
            matrix + columns[None, :] * IN + depth[:, None], mask=is_column[None, :] & is_depth[:, None], other=0.0
        )
        begin(OVERLAPS)
        tile = tl.load(x + inputs + depth[None, :], mask=is_row[:, None] & is_depth[None, :], other=0.0)
        sums = tl.dot(tile.to(matrix.dtype.element_ty), weights, sums, input_precision=PRECISION)
    else:
        begin(OVERLAPS)
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
    OVERLAPS: tl.constexpr,
) -> None:
    begin(OVERLAPS)
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


def _norm_tile(num_rows: int, width: int, device: torch.device) -> tuple[Tile, int]:
    """Tile, and how many tiles of columns one program computes from the rows it has normalised."""
    depth = max(16, triton.next_power_of_2(width))
    is_wide, is_large = depth > 256, has_large_shared_memory(device)
    warps, columns = (8, 32) if is_wide else (4, 64)
    if num_rows <= 128:
        return Tile(16, columns, depth, warps, 2), 1
    if num_rows <= 1024:
        return Tile(32, columns, depth, warps, 2), 2
    return Tile(64, 64 if is_large and not is_wide else 32, depth, 8, 2 if is_large or not is_wide else 1), 8


def _residual_tile(num_rows: int, width: int, overlaps: bool) -> Tile:
    whole = max(16, triton.next_power_of_2(width))
    if num_rows <= 256:
        if overlaps and whole <= 1024:
            # All weights of a program are on their way before the inputs are there.
            return Tile(16, 32, whole, 4 if whole <= 512 else 8, 1)
        return Tile(16, 32, min(128, whole), 4, 4)
    if num_rows <= 2048:
        return Tile(32, 64, min(128, whole), 4, 3)
    return Tile(128, 128, min(64, whole), 8, 3)


def norm_linear(
    x: Tensor,
    norm: tuple[Tensor, Tensor, float],
    matrix: Tensor,
    bias: Tensor | None,
    activation: Activation = "none",
    *,
    overlaps: bool = False,
) -> Tensor:
    """See `norm_linear_plain`; everything contiguous, K at most 1024."""
    num_rows, width = x.shape
    weight, shift, eps = norm
    num_columns = matrix.shape[0]
    out = torch.empty(num_rows, num_columns, dtype=matrix.dtype, device=x.device)
    tile, column_tiles = _norm_tile(num_rows, width, x.device)
    grid = (triton.cdiv(num_rows, tile.rows), triton.cdiv(num_columns, tile.columns * column_tiles))
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
        COLUMN_TILES=column_tiles,
        DEPTH=tile.depth,
        PRECISION=precision_of(matrix.dtype),
        num_warps=tile.warps,
        num_stages=tile.stages,
        **launch_options(num_rows, overlaps),
    )
    return out


def linear_residual(
    x: Tensor, matrix: Tensor, bias: Tensor, residual: Tensor | None, *, overlaps: bool = False
) -> Tensor:
    """See `linear_residual_plain`; everything contiguous."""
    num_rows, width = x.shape
    num_columns = matrix.shape[0]
    out = torch.empty(num_rows, num_columns, dtype=torch.float32, device=x.device)
    tile = _residual_tile(num_rows, width, overlaps)
    grid = (triton.cdiv(num_rows, tile.rows), triton.cdiv(num_columns, tile.columns))
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
        num_warps=tile.warps,
        num_stages=tile.stages,
        **launch_options(num_rows, overlaps),
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
    *,
    overlaps: bool = False,
) -> tuple[Tensor, Tensor]:
    """See `gated_norm_plain`; `h` is overwritten, everything contiguous."""
    num_rows, width = h.shape
    out = torch.empty(num_rows, width, dtype=dtype, device=h.device)
    block = triton.next_power_of_2(width)
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
        **launch_options(num_rows, overlaps),
    )
    return h, out
