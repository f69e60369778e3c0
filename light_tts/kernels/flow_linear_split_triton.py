"""A product of few rows with the residual after it, its inputs shared among the warps of a program. Plain version:
`flow_linear.py`.

One warp would add up all inputs one after the other, which takes longer than reading them; here each adds up a part.

Importing this needs Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.launch_sizes import ceil_div
from light_tts.kernels.triton_math import let_next_begin

_ROWS, _COLUMNS, _DEPTH = 16, 16, 64  # of a program; the depth is that of one step of a slice
_SLICES = 4  # of the inputs, one per warp
_STAGES = 5
_LEAST_INPUTS = 1024  # with fewer, adding up the slices takes as long as it saves
_MOST_ROWS = 128


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]
def _split_linear_kernel(
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
    SLICES: tl.constexpr,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
    OVERLAPS: tl.constexpr,
) -> None:
    let_next_begin(OVERLAPS)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = rows < num_rows, columns < OUT
    is_inside = is_row[:, None] & is_column[None, :]
    places = rows[:, None] * OUT + columns[None, :]
    slices = tl.arange(0, SLICES)[:, None, None] * (IN // SLICES)
    depth = tl.arange(0, DEPTH)
    given_of = x + slices + rows[None, :, None] * IN + depth[None, None, :]
    weights_of = matrix + slices + columns[None, None, :] * IN + depth[None, :, None]
    parts = tl.zeros([SLICES, ROWS, COLUMNS], tl.float32)
    for start in tl.range(0, IN // SLICES, DEPTH, num_stages=STAGES):
        given = tl.load(given_of + start, mask=is_row[None, :, None], other=0.0)
        weights = tl.load(weights_of + start, mask=is_column[None, None, :], other=0.0)
        parts = tl.dot(given.to(matrix.dtype.element_ty), weights, parts)
    added = tl.load(bias + columns, mask=is_column, other=0.0).to(tl.float32)[None, :]
    if HAS_RESIDUAL:
        added += tl.load(residual + places, mask=is_inside, other=0.0)
    tl.store(out + places, tl.sum(parts, axis=0) + added, mask=is_inside)


def can_split(num_rows: int, matrix: Tensor) -> bool:
    """True where it is faster on an H100: few rows and many inputs, which make whole steps of every slice."""
    inputs = matrix.shape[1]
    is_even = inputs % (_SLICES * _DEPTH) == 0
    return matrix.element_size() == 2 and is_even and inputs >= _LEAST_INPUTS and num_rows <= _MOST_ROWS


def split_linear_residual(
    x: Tensor, matrix: Tensor, bias: Tensor, residual: Tensor | None, *, overlaps: bool
) -> Tensor:
    """See `linear_residual_plain`; everything contiguous, what `can_split`.

    overlaps:  the next kernel may begin while this one runs.
    """
    num_rows, width = x.shape
    num_columns = matrix.shape[0]
    out = torch.empty(num_rows, num_columns, dtype=torch.float32, device=x.device)
    _split_linear_kernel[(ceil_div(num_rows, _ROWS), ceil_div(num_columns, _COLUMNS))](
        x,
        matrix,
        bias,
        out if residual is None else residual,
        out,
        num_rows,
        IN=width,
        OUT=num_columns,
        HAS_RESIDUAL=residual is not None,
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
        SLICES=_SLICES,
        DEPTH=_DEPTH,
        STAGES=_STAGES,
        OVERLAPS=overlaps,
        num_warps=_SLICES,
    )
    return out
