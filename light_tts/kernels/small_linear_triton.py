"""Products of few rows with a weight matrix in one kernel each. Plain versions: `small_linear.py`.

One row: every program reads a few outputs' numbers whole, all at once, and sums products. More rows: tiles on tensor
cores. Where outputs are few, several programs share one tile along the inputs; the last of them to arrive adds their
parts up, always in the same order.

The norm's scale is applied to the sums, not to the rows: so the weights need not wait for it.

Importing this needs Triton.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.launch_sizes import ceil_div, power_of_2

_LEAST_DOT_ROWS = 16  # of a matrix product on tensor cores


@dataclass(frozen=True)
class Tiling:
    """How a product is cut: outputs and inputs of one tile, programs that share a tile, warps, stages of the loop."""

    outputs: int
    inputs: int
    splits: int
    num_warps: int
    num_stages: int


class SplitWorkspace:
    """Where programs that share a tile leave their parts. One serves all products of one stream.

    Counters are zero whenever no product is being computed.
    """

    def __init__(self, device: torch.device, *, num_parts: int = 1 << 21, num_tiles: int = 1 << 14) -> None:
        self.parts = torch.empty(num_parts, dtype=torch.float32, device=device)
        self.counters = torch.zeros(num_tiles, dtype=torch.int32, device=device)


@triton.jit  # type: ignore[untyped-decorator]
def _finish(
    sums: tl.tensor,
    ups: tl.tensor,
    squares: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    eps: tl.tensor,
    rows: tl.tensor,
    cols: tl.tensor,
    num_rows: tl.tensor,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    GATED: tl.constexpr,
    ADDS: tl.constexpr,
) -> None:
    """What follows the sums [B, N]: scale of the norm, bias, gate or residual sum; then the store."""
    is_inside = (rows < num_rows)[:, None] & (cols < OUT)[None, :]
    target = out + rows[:, None].to(tl.int64) * OUT + cols[None, :]
    kind = out.dtype.element_ty
    if HAS_NORM:
        scale = tl.rsqrt(squares / IN + eps)[:, None]
        sums = sums * scale
        if GATED:
            ups = ups * scale
    if HAS_BIAS:
        sums += tl.load(bias + cols, mask=cols < OUT, other=0.0).to(tl.float32)[None, :]
    if GATED:
        # Rounded where the plain version rounds.
        gate = sums.to(kind).to(tl.float32)
        silu = (gate / (1.0 + tl.exp(-gate))).to(kind).to(tl.float32)
        sums = silu * ups.to(kind).to(tl.float32)
    if ADDS:
        sums += tl.load(target, mask=is_inside, other=0.0).to(tl.float32)
    tl.store(target, sums.to(kind), mask=is_inside)


@triton.jit  # type: ignore[untyped-decorator]
def _one_row_kernel(
    x: tl.tensor,
    norm: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    eps: tl.tensor,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    GATED: tl.constexpr,
    ADDS: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    cols = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    places = tl.arange(0, BLOCK_IN)
    is_inside = places < IN
    is_held = (cols < OUT)[:, None] & is_inside[None, :]
    source = weight + cols[:, None] * IN + places[None, :]
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    # Weights first: they depend on nothing that another kernel computes.
    tile = tl.load(source, mask=is_held, other=0.0)
    if GATED:
        up_tile = tl.load(source + OUT * IN, mask=is_held, other=0.0)
    if HAS_NORM:
        norms = tl.load(norm + places, mask=is_inside, other=0.0)
    if PDL:
        tl.extra.cuda.gdc_wait()
    row = tl.load(x + places, mask=is_inside, other=0.0).to(tl.float32)
    squares = tl.zeros([1], tl.float32)
    if HAS_NORM:
        squares += tl.sum(row * row, axis=0)
        row *= norms
    sums = tl.sum(tile.to(tl.float32) * row[None, :], axis=1)[None, :]
    ups = sums
    if GATED:
        ups = tl.sum(up_tile.to(tl.float32) * row[None, :], axis=1)[None, :]
    rows = tl.arange(0, 1)
    _finish(
        sums, ups, squares, bias, out, eps, rows, cols, 1, IN, OUT,
        HAS_NORM=HAS_NORM, HAS_BIAS=HAS_BIAS, GATED=GATED, ADDS=ADDS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]
def _rows_kernel(
    x: tl.tensor,
    norm: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    parts: tl.tensor,
    counters: tl.tensor,
    eps: tl.tensor,
    num_rows: tl.tensor,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    SPLITS: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    GATED: tl.constexpr,
    ADDS: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    row_block, col_block, split = tl.program_id(1), tl.program_id(0), tl.program_id(2)
    rows = row_block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    cols = col_block * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    is_row, is_col = (rows < num_rows)[:, None], (cols < OUT)[:, None]
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    sums = tl.zeros([BLOCK_ROWS, BLOCK_OUT], tl.float32)
    ups = sums
    squares = tl.zeros([BLOCK_ROWS], tl.float32)
    tiles: tl.constexpr = (IN + BLOCK_IN * SPLITS - 1) // (BLOCK_IN * SPLITS)
    for index in range(0, tiles):
        places = (split * tiles + index) * BLOCK_IN + tl.arange(0, BLOCK_IN)
        is_inside = (places < IN)[None, :]
        left = tl.load(x + rows[:, None] * IN + places[None, :], mask=is_row & is_inside, other=0.0)
        source = weight + cols[:, None] * IN + places[None, :]
        right = tl.load(source, mask=is_col & is_inside, other=0.0)
        if HAS_NORM:
            wide = left.to(tl.float32)
            squares += tl.sum(wide * wide, axis=1)
            left = (wide * tl.load(norm + places, mask=places < IN, other=0.0)[None, :]).to(right.dtype)
        sums = tl.dot(left, tl.trans(right), sums, input_precision=PRECISION)
        if GATED:
            up_right = tl.load(source + OUT * IN, mask=is_col & is_inside, other=0.0)
            ups = tl.dot(left, tl.trans(up_right), ups, input_precision=PRECISION)
    if SPLITS == 1:
        _finish(
            sums, ups, squares, bias, out, eps, rows, cols, num_rows, IN, OUT,
            HAS_NORM=HAS_NORM, HAS_BIAS=HAS_BIAS, GATED=GATED, ADDS=ADDS,
        )  # fmt: skip
    else:
        tl.static_assert(not HAS_NORM, "a shared tile does not know the whole row")
        tile = row_block * tl.num_programs(0) + col_block
        offsets = tl.arange(0, BLOCK_ROWS)[:, None] * BLOCK_OUT + tl.arange(0, BLOCK_OUT)[None, :]
        own = parts + tile * SPLITS * BLOCK_ROWS * BLOCK_OUT + offsets
        tl.store(own + split * BLOCK_ROWS * BLOCK_OUT, sums)
        # All threads have stored before one of them says so.
        tl.debug_barrier()
        num_before = tl.atomic_add(counters + tile, 1, sem="acq_rel")
        if num_before == SPLITS - 1:
            joined = tl.zeros([BLOCK_ROWS, BLOCK_OUT], tl.float32)
            for part in tl.static_range(0, SPLITS):
                joined += tl.load(own + part * BLOCK_ROWS * BLOCK_OUT, cache_modifier=".cg")
            _finish(
                joined, joined, squares, bias, out, eps, rows, cols, num_rows, IN, OUT,
                HAS_NORM=HAS_NORM, HAS_BIAS=HAS_BIAS, GATED=GATED, ADDS=ADDS,
            )  # fmt: skip
            tl.store(counters + tile, 0)


class SmallLinear:
    """The products of `small_linear.py` for few rows, up to a few hundred.

    pdl:  a kernel may be launched before the one before it has ended (programmatic dependent launch); it then reads
          its weights and waits. Every kernel between two such must take part or be launched in full order.
    """

    def __init__(self, workspace: SplitWorkspace, *, pdl: bool = False) -> None:
        self._workspace, self._pdl = workspace, pdl

    @property
    def overlaps(self) -> bool:
        """True when its kernels are launched before the one before them has ended."""
        return self._pdl

    def norm_linear(self, hidden: Tensor, norm: Tensor, eps: float, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `norm_linear_plain`; `hidden` must be contiguous, and so must the transpose of `weight`."""
        out = torch.empty(len(hidden), weight.shape[1], dtype=weight.dtype, device=hidden.device)
        self._multiply(hidden, norm, eps, weight, bias, out)
        return out

    def norm_gated(self, hidden: Tensor, norm: Tensor, eps: float, weight: Tensor) -> Tensor:
        """See `norm_gated_plain`; `hidden` must be contiguous, and so must the transpose of `weight`."""
        out = torch.empty(len(hidden), weight.shape[1] // 2, dtype=hidden.dtype, device=hidden.device)
        self._multiply(hidden, norm, eps, weight, None, out, is_gated=True)
        return out

    def linear_add(self, total: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        """See `linear_add_plain`; `total` and `rows` must be contiguous, and so must the transpose of `weight`."""
        self._multiply(rows, None, 0.0, weight, None, total, adds=True)
        return total

    def _multiply(
        self,
        rows: Tensor,
        norm: Tensor | None,
        eps: float,
        weight: Tensor,
        bias: Tensor | None,
        out: Tensor,
        *,
        is_gated: bool = False,
        adds: bool = False,
    ) -> None:
        assert rows.is_contiguous(), "a row must lie whole in memory"
        assert weight.t().is_contiguous(), "an output's numbers must lie side by side"
        num_rows, num_inputs = rows.shape
        num_outputs = out.shape[1]
        launch = {"launch_pdl": True} if self._pdl else {}
        # What is absent is never read; some pointer must stand there.
        norm_or_any = weight if norm is None else norm
        bias_or_any = weight if bias is None else bias
        flags = {"HAS_NORM": norm is not None, "HAS_BIAS": bias is not None, "GATED": is_gated, "ADDS": adds}
        if num_rows == 1:
            tiling = one_row_tiling(num_inputs, num_outputs)
            _one_row_kernel[(ceil_div(num_outputs, tiling.outputs),)](
                rows, norm_or_any, weight, bias_or_any, out, eps,
                IN=num_inputs, OUT=num_outputs, BLOCK_IN=tiling.inputs, BLOCK_OUT=tiling.outputs, PDL=self._pdl,
                num_warps=tiling.num_warps, **flags, **launch,
            )  # fmt: skip
            return
        block_rows = max(_LEAST_DOT_ROWS, min(64, power_of_2(num_rows)))
        tiling = rows_tiling(num_rows, num_inputs, num_outputs, weight.dtype, may_split=norm is None)
        grid = ceil_div(num_outputs, tiling.outputs), ceil_div(num_rows, block_rows), tiling.splits
        if tiling.splits > 1:
            assert grid[0] * grid[1] <= len(self._workspace.counters), "more tiles than counters"
            num_parts = grid[0] * grid[1] * grid[2] * block_rows * tiling.outputs
            assert num_parts <= len(self._workspace.parts), "more parts than room for them"
        _rows_kernel[grid](
            rows, norm_or_any, weight, bias_or_any, out, self._workspace.parts, self._workspace.counters, eps, num_rows,
            IN=num_inputs, OUT=num_outputs, BLOCK_ROWS=block_rows, BLOCK_OUT=tiling.outputs, BLOCK_IN=tiling.inputs,
            SPLITS=tiling.splits, PRECISION=_precision(weight.dtype), PDL=self._pdl,
            num_warps=tiling.num_warps, num_stages=tiling.num_stages, **flags, **launch,
        )  # fmt: skip


def one_row_tiling(num_inputs: int, num_outputs: int) -> Tiling:
    """Each program holds its outputs' numbers in registers: 16 to 64 bytes of each thread."""
    inputs = power_of_2(num_inputs)
    outputs = max(1, 4096 // inputs)
    if num_outputs * outputs >= 1 << 14:
        outputs *= 2
    num_warps = 4 if inputs <= 2048 else 8
    return Tiling(outputs, inputs, 1, num_warps, 1)


def rows_tiling(num_rows: int, num_inputs: int, num_outputs: int, dtype: torch.dtype, *, may_split: bool) -> Tiling:
    """Tiles narrow enough to give every multiprocessor one; where that is not enough, shared ones."""
    outputs = 32 if num_outputs >= 4096 else 16
    inputs = 128 if dtype != torch.float32 else 64
    num_tiles = ceil_div(num_outputs, outputs) * ceil_div(num_rows, 64)
    splits = 1
    while may_split and num_tiles * splits < 128 and num_inputs >= 4 * splits * inputs:
        splits *= 2
    num_warps = 4 if num_rows > 16 else (2 if outputs == 16 else 4)
    # Shared memory must suffice on GPUs that have less of it than data-centre ones.
    num_stages = 4 if dtype != torch.float32 and num_rows <= 32 else 3
    return Tiling(outputs, inputs, splits, num_warps, num_stages)


def _precision(dtype: torch.dtype) -> str:
    """Of a float32 product on tensor cores: three products of truncated parts lose nothing that matters."""
    return "tf32x3" if dtype == torch.float32 else "ieee"
