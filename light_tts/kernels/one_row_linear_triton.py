"""Products of one row with a weight matrix in one kernel each. Plain versions: `small_linear.py`.

Every program reads a few outputs' numbers whole, all at once, and sums products. The norm's scale is applied to the
sums, not to the row: so the weights need not wait for it.

Importing this needs Triton.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.launch_sizes import ceil_div, power_of_2


class Tiling(NamedTuple):
    """How a product is cut: outputs of a program, the next power of 2 of the inputs, warps."""

    outputs: int
    inputs: int
    num_warps: int


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


class OneRowLinear:
    """The products of `small_linear.py` for one row.

    overlaps:  a kernel may be launched before the one before it has ended (programmatic dependent launch); it then
               reads its weights and waits. Every kernel between two such must take part or be launched in full order.
    """

    def __init__(self, *, overlaps: bool = False) -> None:
        self.overlaps = overlaps

    def norm_linear(self, hidden: Tensor, norm: Tensor, eps: float, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `norm_linear_plain`; `hidden` must be contiguous, and so must the transpose of `weight`."""
        out = torch.empty(1, weight.shape[1], dtype=weight.dtype, device=hidden.device)
        self._multiply(hidden, norm, eps, weight, bias, out)
        return out

    def norm_gated(self, hidden: Tensor, norm: Tensor, eps: float, weight: Tensor) -> Tensor:
        """See `norm_gated_plain`; `hidden` must be contiguous, and so must the transpose of `weight`."""
        out = torch.empty(1, weight.shape[1] // 2, dtype=hidden.dtype, device=hidden.device)
        self._multiply(hidden, norm, eps, weight, None, out, is_gated=True)
        return out

    def linear_add(self, total: Tensor, row: Tensor, weight: Tensor) -> Tensor:
        """See `linear_add_plain`; `total` and `row` must be contiguous, and so must the transpose of `weight`."""
        self._multiply(row, None, 0.0, weight, None, total, adds=True)
        return total

    def _multiply(
        self,
        row: Tensor,
        norm: Tensor | None,
        eps: float,
        weight: Tensor,
        bias: Tensor | None,
        out: Tensor,
        *,
        is_gated: bool = False,
        adds: bool = False,
    ) -> None:
        assert row.is_contiguous(), "the row must lie whole in memory"
        assert weight.t().is_contiguous(), "an output's numbers must lie side by side"
        num_inputs, num_outputs = row.shape[1], out.shape[1]
        tiling = one_row_tiling(num_inputs, num_outputs)
        # What is absent is never read; some pointer must stand there.
        norm_or_any = weight if norm is None else norm
        bias_or_any = weight if bias is None else bias
        _one_row_kernel[(ceil_div(num_outputs, tiling.outputs),)](
            row, norm_or_any, weight, bias_or_any, out, eps,
            IN=num_inputs, OUT=num_outputs, BLOCK_IN=tiling.inputs, BLOCK_OUT=tiling.outputs, HAS_NORM=norm is not None,
            HAS_BIAS=bias is not None, GATED=is_gated, ADDS=adds, PDL=self.overlaps, num_warps=tiling.num_warps,
            **({"launch_pdl": True} if self.overlaps else {}),
        )  # fmt: skip


def one_row_tiling(num_inputs: int, num_outputs: int) -> Tiling:
    """Each program holds its outputs' numbers in registers: 16 to 64 bytes of each thread."""
    inputs = power_of_2(num_inputs)
    outputs = max(1, 4096 // inputs)
    if num_outputs * outputs >= 1 << 14:
        outputs *= 2
    return Tiling(outputs, inputs, 4 if inputs <= 2048 else 8)
