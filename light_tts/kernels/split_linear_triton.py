"""Products of a few dozen rows, and the norm that adds up what they leave in parts. Plain versions: `split_linear.py`.

A decoding step is bound by reading the weights, and by how long each of its kernels takes to begin and to end. So a
matrix is cut into many programs, outputs and inputs alike, no program waits for another, and each may be launched
before the kernel in front of it has ended. Programs need little shared memory: those of other kernels on the same GPU
leave little of it.

Importing this needs Triton.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.launch_sizes import ceil_div, power_of_2
from light_tts.kernels.triton_math import let_next_begin, wait_for_former

_LEAST_DOT_ROWS = 16  # of a matrix product on tensor cores
_MOST_BLOCK_ROWS = 64
# What follows was measured on an H200, 24 layers, 8 to 128 rows (`benchmarks/results/gpu-llm-few-rows.txt`). Of ways
# about as fast the one with the least shared memory: there is little of it beside calls of the flow.
_FEW_INPUTS = 1024
_MANY_OUTPUTS = 4096
_NORM_WARPS = 8
# A kernel that has been let in holds multiprocessors that flow calls could use: with few rows it is let in when the one
# before begins itself, with more when that is nearly done.
_EARLY_ROWS = tl.constexpr(16)


class Tiling(NamedTuple):
    """How a product is cut: outputs and inputs of a tile, programs that share its inputs, warps, stages of the loop.

    is_turned:  the outputs stand where a product has its rows: tensor cores take 64 of them at a time.
    is_held:    there is one tile for each program, whose weights it reads while the kernel in front still runs.
    """

    outputs: int
    inputs: int
    splits: int
    num_warps: int
    num_stages: int
    is_turned: bool = False
    is_held: bool = False


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]
def _linear_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    SPLITS: tl.constexpr,
    STAGES: tl.constexpr,
    GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IS_TURNED: tl.constexpr,
    IS_HELD: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAPS: tl.constexpr,
) -> None:
    """One tile of outputs, of one split of the inputs; OUT counts pairs of gate and up where there are such."""
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    split = tl.program_id(2)
    is_row = rows < num_rows
    columns = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    if GATED:
        # Gate and up of an output are neighbours in a tile, and lie far from each other in memory.
        sources, is_column = columns // 2 + columns % 2 * OUT, columns // 2 < OUT
    else:
        sources, is_column = columns, columns < OUT
    depth = tl.arange(0, INPUTS)
    TILES: tl.constexpr = (IN + INPUTS * SPLITS - 1) // (INPUTS * SPLITS)
    given_of = x + rows[:, None] * IN + depth[None, :]
    weights_of = weight + sources.to(tl.int64)[:, None] * IN + depth[None, :]
    if IS_HELD:
        tl.static_assert(TILES == 1, "what is held is one tile")
        is_input = (split * INPUTS + depth < IN)[None, :]
        # Weights depend on nothing that another kernel computes.
        weights = tl.load(weights_of + split * INPUTS, mask=is_column[:, None] & is_input, other=0.0)
        wait_for_former(OVERLAPS)
        let_next_begin(OVERLAPS and ROWS <= _EARLY_ROWS)
        given = tl.load(given_of + split * INPUTS, mask=is_row[:, None] & is_input, other=0.0)
        if IS_TURNED:
            sums = tl.dot(weights, tl.trans(given), input_precision=PRECISION)
        else:
            sums = tl.dot(given, tl.trans(weights), input_precision=PRECISION)
    else:
        wait_for_former(OVERLAPS)
        let_next_begin(OVERLAPS and ROWS <= _EARLY_ROWS)
        sums = tl.zeros([OUTPUTS, ROWS] if IS_TURNED else [ROWS, OUTPUTS], tl.float32)
        for tile in tl.range(split * TILES, (split + 1) * TILES, num_stages=STAGES):
            is_input = (tile * INPUTS + depth < IN)[None, :]
            given = tl.load(given_of + tile * INPUTS, mask=is_row[:, None] & is_input, other=0.0)
            weights = tl.load(weights_of + tile * INPUTS, mask=is_column[:, None] & is_input, other=0.0)
            if IS_TURNED:
                sums = tl.dot(weights, tl.trans(given), sums, input_precision=PRECISION)
            else:
                sums = tl.dot(given, tl.trans(weights), sums, input_precision=PRECISION)
    let_next_begin(OVERLAPS and ROWS > _EARLY_ROWS)
    if IS_TURNED:
        sums = tl.trans(sums)
    kind = out.dtype.element_ty
    if GATED:
        gate, up = tl.split(tl.reshape(sums, [ROWS, OUTPUTS // 2, 2]))
        # Rounded where the plain version rounds.
        gate = gate.to(kind).to(tl.float32)
        silu = (gate / (1.0 + tl.exp(-gate))).to(kind).to(tl.float32)
        sums = silu * up.to(kind).to(tl.float32)
        columns = tl.program_id(0) * (OUTPUTS // 2) + tl.arange(0, OUTPUTS // 2)
        is_column = columns < OUT
    if HAS_BIAS:
        sums += tl.load(bias + columns, mask=is_column, other=0.0).to(tl.float32)[None, :]
    places = (split * num_rows + rows).to(tl.int64)[:, None] * OUT + columns[None, :]
    tl.store(out + places, sums.to(kind), mask=is_row[:, None] & is_column[None, :])


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]
def _add_norm_kernel(
    total: tl.tensor,
    parts: tl.tensor,
    norm: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    OVERLAPS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    is_inside = places < WIDTH
    weights = tl.load(norm + places, mask=is_inside, other=0.0)
    wait_for_former(OVERLAPS)
    let_next_begin(OVERLAPS)
    before = tl.load(total + row * WIDTH + places, mask=is_inside, other=0.0).to(tl.float32)
    sums = tl.zeros([BLOCK], tl.float32)
    for part in tl.static_range(0, PARTS):
        sums += tl.load(parts + (part * num_rows + row) * WIDTH + places, mask=is_inside, other=0.0)
    rounded = (before + sums).to(total.dtype.element_ty)
    tl.store(total + row * WIDTH + places, rounded, mask=is_inside)
    wide = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / WIDTH + eps)
    tl.store(out + row * WIDTH + places, (wide * scale * weights).to(out.dtype.element_ty), mask=is_inside)


class SplitLinear:
    """The products of `split_linear.py`. Rows must be contiguous, and so must the transpose of a weight.

    overlaps:  a kernel may be launched before the one before it has ended (see `triton_math.begin`).
    """

    def __init__(self, *, overlaps: bool = False) -> None:
        self._overlaps = overlaps

    def linear(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `linear_plain`."""
        num_rows, num_outputs = len(rows), weight.shape[1]
        out = torch.empty(num_rows, num_outputs, dtype=weight.dtype, device=rows.device)
        self._multiply(rows, weight, bias, out, linear_tiling(num_rows, num_outputs, weight.dtype))
        return out

    def gated(self, rows: Tensor, weight: Tensor) -> Tensor:
        """See `gated_plain`."""
        num_rows, num_outputs = len(rows), weight.shape[1] // 2
        out = torch.empty(num_rows, num_outputs, dtype=weight.dtype, device=rows.device)
        self._multiply(rows, weight, None, out, gated_tiling(num_rows, weight.dtype), is_gated=True)
        return out

    def parts(self, rows: Tensor, weight: Tensor) -> Tensor:
        """See `parts_plain`."""
        tiling = parts_tiling(len(rows), len(weight), weight.dtype)
        out = torch.empty(tiling.splits, len(rows), weight.shape[1], dtype=torch.float32, device=rows.device)
        self._multiply(rows, weight, None, out, tiling)
        return out

    def add_norm(self, total: Tensor, parts: Tensor, norm: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """See `add_norm_plain`; `total` and the parts must be contiguous."""
        num_rows, width = total.shape
        out = torch.empty(num_rows, width, dtype=dtype, device=total.device)
        _add_norm_kernel[(num_rows,)](
            total, parts, norm, out, num_rows, eps,
            WIDTH=width, BLOCK=power_of_2(width), PARTS=len(parts), OVERLAPS=self._overlaps,
            num_warps=_NORM_WARPS, **self._launch(),
        )  # fmt: skip
        return out

    def _multiply(
        self, rows: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, tiling: Tiling, *, is_gated: bool = False
    ) -> None:
        assert rows.is_contiguous(), "a row must lie whole in memory"
        assert weight.t().is_contiguous(), "an output's numbers must lie side by side"
        num_rows, num_inputs = rows.shape
        block_rows = max(_LEAST_DOT_ROWS, min(_MOST_BLOCK_ROWS, power_of_2(num_rows)))
        grid = ceil_div(weight.shape[1], tiling.outputs), ceil_div(num_rows, block_rows), tiling.splits
        _linear_kernel[grid](
            rows, weight, weight if bias is None else bias, out, num_rows,
            IN=num_inputs, OUT=out.shape[-1], ROWS=block_rows, OUTPUTS=tiling.outputs, INPUTS=tiling.inputs,
            SPLITS=tiling.splits, STAGES=tiling.num_stages, GATED=is_gated, HAS_BIAS=bias is not None,
            IS_TURNED=tiling.is_turned, IS_HELD=tiling.is_held,
            PRECISION="tf32x3" if weight.dtype == torch.float32 else "ieee",
            OVERLAPS=self._overlaps, num_warps=tiling.num_warps, num_stages=tiling.num_stages, **self._launch(),
        )  # fmt: skip

    def _launch(self) -> dict[str, bool]:
        return {"launch_pdl": True} if self._overlaps else {}


def linear_tiling(num_rows: int, num_outputs: int, dtype: torch.dtype) -> Tiling:
    """Of a product whose results are used as they are, so that no program may share its inputs."""
    if num_outputs >= _MANY_OUTPUTS:
        return Tiling(64, _inputs(64, dtype), 1, 4, 3)
    if num_rows <= 32:
        return Tiling(16, _inputs(128, dtype), 1, 4, 5)
    return Tiling(16, _inputs(64, dtype), 1, 4, 8)


def gated_tiling(num_rows: int, dtype: torch.dtype) -> Tiling:
    """Of a product with many outputs, gates and ups together."""
    return Tiling(64, _inputs(64, dtype), 1, 4, 6 if num_rows <= 16 else 4, is_turned=_can_turn(dtype))


def parts_tiling(num_rows: int, num_inputs: int, dtype: torch.dtype) -> Tiling:
    """Of a product whose inputs may be shared out."""
    is_turned = _can_turn(dtype)
    if num_inputs <= _FEW_INPUTS:
        inputs = _inputs(256, dtype)
        return Tiling(64, inputs, ceil_div(num_inputs, inputs), 4, 1, is_turned, is_held=True)
    if num_rows <= 16:
        inputs = _inputs(512, dtype)
        return Tiling(64, inputs, ceil_div(num_inputs, inputs), 8, 1, is_turned, is_held=True)
    inputs = _inputs(64, dtype)
    return Tiling(64, inputs, ceil_div(num_inputs, 8 * inputs), 4, 4, is_turned)


def _inputs(count: int, dtype: torch.dtype) -> int:
    """As many as take the memory of that many numbers of 16 bits."""
    return count * 2 // dtype.itemsize


def _can_turn(dtype: torch.dtype) -> bool:
    """Products of float32 are three products of parts, which take more registers than there are for 64 outputs."""
    return dtype != torch.float32
