"""Products of many rows with a matrix in fewer bits, on tensor cores; codes become numbers in registers.

Where the tiles are too few for a whole GPU, their inputs are split. The program that finishes last adds the parts in
their order, so that the result does not depend on who that was. Plain version: `quantized_weights.py`. Importing this
needs Triton.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.launch_sizes import ceil_div
from light_tts.kernels.quantized_codes_triton import FP8_FACTOR, complete, halves, number
from light_tts.kernels.quantized_weights import GROUP_INPUTS, Around, QuantizedWeights
from light_tts.kernels.triton_math import begin, launch_options

_WANTED_PROGRAMS = 256
_MOST_SPLITS = 8
_GROUP_BYTES = tl.constexpr(GROUP_INPUTS // 2)
_ALONE = Around()


@triton.jit  # type: ignore[untyped-decorator]
def _finish(
    sums: tl.tensor,
    ups: tl.tensor,
    squares: tl.tensor,
    members: tl.tensor,
    outputs: tl.tensor,
    num_rows: tl.tensor,
    num_inputs: tl.tensor,
    num_outputs: tl.tensor,
    base: tl.tensor,
    base_stride: tl.tensor,
    out: tl.tensor,
    parts: tl.tensor,
    arrivals: tl.tensor,
    eps: tl.tensor,
    HAS_NORM: tl.constexpr,
    IS_GATED: tl.constexpr,
    HAS_BASE: tl.constexpr,
    IS_SPLIT: tl.constexpr,
) -> None:
    """Complete a tile, or leave a part of one; whoever brings the last part adds them all."""
    if IS_SPLIT:
        tl.static_assert(not (HAS_NORM or IS_GATED), "a part of a tile does not know the whole row")
        is_inside = (members < num_rows)[:, None] & (outputs < num_outputs)[None, :]
        places = parts + members[:, None] * num_outputs + outputs[None, :]
        tl.store(places + tl.program_id(2) * num_rows * num_outputs, sums, mask=is_inside)
        tl.debug_barrier()  # all threads' stores come before the arrival is told
        arrival = arrivals + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        if tl.atomic_add(arrival, 1, sem="acq_rel") == tl.num_programs(2) - 1:
            tl.store(arrival, 0)
            joined = tl.zeros_like(sums)
            for split in range(tl.num_programs(2)):
                part = places + split * num_rows * num_outputs
                joined += tl.load(part, mask=is_inside, other=0.0, cache_modifier=".cg")
            complete(
                joined, joined, squares, members, outputs, num_rows, num_inputs, num_outputs, base, base_stride, out,
                eps, HAS_NORM, IS_GATED, HAS_BASE,
            )  # fmt: skip
    else:
        complete(
            sums, ups, squares, members, outputs, num_rows, num_inputs, num_outputs, base, base_stride, out, eps,
            HAS_NORM, IS_GATED, HAS_BASE,
        )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _tiles_bytes_kernel(
    rows: tl.tensor,
    norm: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    base: tl.tensor,
    out: tl.tensor,
    parts: tl.tensor,
    arrivals: tl.tensor,
    num_rows: tl.tensor,
    row_stride: tl.tensor,
    base_stride: tl.tensor,
    eps: tl.tensor,
    factor: tl.tensor,
    num_inputs: tl.tensor,
    num_outputs: tl.tensor,
    IS_FP8: tl.constexpr,
    HAS_NORM: tl.constexpr,
    IS_GATED: tl.constexpr,
    HAS_BASE: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
    OVERLAPS: tl.constexpr,
) -> None:
    begin(OVERLAPS)
    outputs = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    members = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    is_output, is_member = outputs < num_outputs, members < num_rows
    steps = tl.cdiv(num_inputs, BLOCK_INPUTS)
    steps_per_split = tl.cdiv(steps, tl.num_programs(2))
    start = tl.program_id(2) * steps_per_split
    sums = tl.zeros([BLOCK_ROWS, BLOCK_OUTPUTS], tl.float32)
    ups = sums
    squares = tl.zeros([BLOCK_ROWS], tl.float32)
    for step in range(start, tl.minimum(steps, start + steps_per_split)):
        inputs = step * BLOCK_INPUTS + tl.arange(0, BLOCK_INPUTS)
        is_input = inputs < num_inputs
        source = rows + members[:, None] * row_stride + inputs[None, :]
        values = tl.load(source, mask=is_member[:, None] & is_input[None, :], other=0.0)
        if HAS_NORM:
            squares += _squares(values)
            values = _weighted(values, norm, inputs, is_input)
        is_code = is_output[None, :] & is_input[:, None]
        place = codes + outputs[None, :] * num_inputs + inputs[:, None]
        code = tl.load(place, mask=is_code, other=0)
        sums = tl.dot(values, number(code, IS_FP8, values.dtype), sums, input_precision="ieee")
        if IS_GATED:
            up_code = tl.load(place + num_outputs * num_inputs, mask=is_code, other=0)
            ups = tl.dot(values, number(up_code, IS_FP8, values.dtype), ups, input_precision="ieee")
    sums *= (tl.load(scales + outputs, mask=is_output, other=0.0) * factor)[None, :]
    if IS_GATED:
        ups *= (tl.load(scales + num_outputs + outputs, mask=is_output, other=0.0) * factor)[None, :]
    _finish(
        sums, ups, squares, members, outputs, num_rows, num_inputs, num_outputs, base, base_stride, out, parts,
        arrivals, eps, HAS_NORM, IS_GATED, HAS_BASE, IS_SPLIT,
    )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _squares(values: tl.tensor) -> tl.tensor:
    wide = values.to(tl.float32)
    return tl.sum(wide * wide, axis=1)


@triton.jit  # type: ignore[untyped-decorator]
def _weighted(values: tl.tensor, norm: tl.tensor, inputs: tl.tensor, is_input: tl.tensor) -> tl.tensor:
    """Values by the norm's weights; its scale follows the sums, so that they need not wait for it."""
    return (values.to(tl.float32) * tl.load(norm + inputs, mask=is_input, other=0.0)[None, :]).to(values.dtype)


@triton.jit  # type: ignore[untyped-decorator]
def _group_product(low_values: tl.tensor, high_values: tl.tensor, codes: tl.tensor, is_held: tl.tensor) -> tl.tensor:
    """[members, outputs] of one group of int4, its scale left out. codes: [64, outputs] places of bytes."""
    low, high = halves(tl.load(codes, mask=is_held, other=0), low_values.dtype)
    product = tl.dot(low_values, low, input_precision="ieee")
    return tl.dot(high_values, high, product, input_precision="ieee")


@triton.jit  # type: ignore[untyped-decorator]
def _tiles_int4_kernel(
    rows: tl.tensor,
    norm: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    base: tl.tensor,
    out: tl.tensor,
    parts: tl.tensor,
    arrivals: tl.tensor,
    num_rows: tl.tensor,
    row_stride: tl.tensor,
    base_stride: tl.tensor,
    eps: tl.tensor,
    num_inputs: tl.tensor,
    num_outputs: tl.tensor,
    num_groups: tl.tensor,
    scale_width: tl.tensor,
    HAS_NORM: tl.constexpr,
    IS_GATED: tl.constexpr,
    HAS_BASE: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    OVERLAPS: tl.constexpr,
) -> None:
    begin(OVERLAPS)
    outputs = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    members = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    is_output, is_member = outputs < num_outputs, members < num_rows
    pairs = tl.arange(0, _GROUP_BYTES)
    groups_per_split = tl.cdiv(num_groups, tl.num_programs(2))
    start = tl.program_id(2) * groups_per_split
    sums = tl.zeros([BLOCK_ROWS, BLOCK_OUTPUTS], tl.float32)
    ups = sums
    squares = tl.zeros([BLOCK_ROWS], tl.float32)
    for group in range(start, tl.minimum(num_groups, start + groups_per_split)):
        inputs = group * (2 * _GROUP_BYTES) + pairs
        is_low, is_high = inputs < num_inputs, inputs + _GROUP_BYTES < num_inputs
        source = rows + members[:, None] * row_stride + inputs[None, :]
        low_values = tl.load(source, mask=is_member[:, None] & is_low[None, :], other=0.0)
        high_values = tl.load(source + _GROUP_BYTES, mask=is_member[:, None] & is_high[None, :], other=0.0)
        if HAS_NORM:
            squares += _squares(low_values) + _squares(high_values)
            low_values = _weighted(low_values, norm, inputs, is_low)
            high_values = _weighted(high_values, norm, inputs + _GROUP_BYTES, is_high)
        place = codes + outputs[None, :] * (num_groups * _GROUP_BYTES) + group * _GROUP_BYTES + pairs[:, None]
        scale_place = scales + group * scale_width + outputs
        of_group = _group_product(low_values, high_values, place, is_output[None, :])
        sums += of_group * tl.load(scale_place, mask=is_output, other=0.0)[None, :]
        if IS_GATED:
            up_place = place + num_outputs * num_groups * _GROUP_BYTES
            of_group = _group_product(low_values, high_values, up_place, is_output[None, :])
            ups += of_group * tl.load(scale_place + num_outputs, mask=is_output, other=0.0)[None, :]
    _finish(
        sums, ups, squares, members, outputs, num_rows, num_inputs, num_outputs, base, base_stride, out, parts,
        arrivals, eps, HAS_NORM, IS_GATED, HAS_BASE, IS_SPLIT,
    )  # fmt: skip


class _Tile(NamedTuple):
    """Shape of what one program computes, and how."""

    rows: int
    outputs: int
    inputs: int
    num_warps: int
    num_stages: int


def _tile_for(num_rows: int, kind: str, dtype: torch.dtype, *, is_gated: bool) -> _Tile:
    """Sized to stay below 100 kB of shared memory, which every GPU since Ampere has; gates count as outputs."""
    if dtype == torch.float32:
        return _Tile(16, 16, 64, 4, 2)
    if num_rows <= 32:
        return _Tile(16 if num_rows <= 16 else 32, 16 if is_gated else 32, 128, 4, 4)
    if num_rows <= 64:
        return _Tile(64, 32, 64, 4, 3 if is_gated else 4)
    if num_rows < 512 or kind == "int4" or is_gated:
        return _Tile(128, 32 if is_gated else 64, 64, 8, 2 if kind == "int4" else 3)
    return _Tile(128, 128, 64, 8, 3)


def num_splits(num_tiles: int, num_steps: int) -> int:
    """Into how many parts the inputs of each tile are cut: a power of 2, each part two steps or more."""
    wanted = max(1, min(_WANTED_PROGRAMS // num_tiles, num_steps // 2, _MOST_SPLITS))
    return 1 << (wanted.bit_length() - 1)


class TiledProduct:
    """Products with one matrix; not two at a time, since they share the counters of arrived parts."""

    def __init__(self, weights: QuantizedWeights) -> None:
        self._weights = weights
        self._arrivals = torch.zeros(_WANTED_PROGRAMS, dtype=torch.int32, device=weights.codes.device)

    def __call__(self, rows: Tensor, base: Tensor | None, out: Tensor, around: Around = _ALONE) -> None:
        """See `product_plain`; the result goes to `out`, which may be `base`. The numbers of a row lie side by side."""
        weights, num_rows, num_outputs = self._weights, len(rows), out.shape[1]
        tile = _tile_for(num_rows, weights.kind, rows.dtype, is_gated=around.is_gated)
        is_int4, is_fp8 = weights.kind == "int4", weights.kind == "fp8"
        tiles = (ceil_div(num_outputs, tile.outputs), ceil_div(num_rows, tile.rows))
        steps = len(weights.scales) if is_int4 else ceil_div(weights.num_inputs, tile.inputs)
        is_whole = around.norm is not None or around.is_gated
        splits = 1 if is_whole else num_splits(tiles[0] * tiles[1], steps)
        parts = torch.empty(
            splits * num_rows * num_outputs if splits > 1 else 0, dtype=torch.float32, device=rows.device
        )
        base_stride = base.stride(0) if base is not None and base.dim() == 2 else 0
        flags = {
            "HAS_NORM": around.norm is not None, "IS_GATED": around.is_gated, "HAS_BASE": base is not None,
            "IS_SPLIT": splits > 1, "BLOCK_ROWS": tile.rows, "BLOCK_OUTPUTS": tile.outputs,
            "num_warps": tile.num_warps, "num_stages": tile.num_stages,
            **launch_options(num_rows, around.overlaps),
        }  # fmt: skip
        if is_int4:
            _tiles_int4_kernel[(*tiles, splits)](
                rows, around.norm, weights.codes, weights.scales, base, out, parts, self._arrivals, num_rows,
                rows.stride(0), base_stride, around.eps, weights.num_inputs, num_outputs, *weights.scales.shape,
                **flags,
            )  # fmt: skip
        else:
            _tiles_bytes_kernel[(*tiles, splits)](
                rows, around.norm, weights.codes.view(torch.uint8) if is_fp8 else weights.codes, weights.scales, base,
                out, parts, self._arrivals, num_rows, rows.stride(0), base_stride, around.eps,
                FP8_FACTOR if is_fp8 else 1.0, weights.num_inputs, num_outputs,
                IS_FP8=is_fp8, BLOCK_INPUTS=tile.inputs, **flags,
            )  # fmt: skip
