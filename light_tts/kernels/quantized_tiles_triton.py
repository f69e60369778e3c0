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

from light_tts.kernels.quantized_codes_triton import FP8_FACTOR, halves, number
from light_tts.kernels.quantized_weights import GROUP_INPUTS, QuantizedWeights

_WANTED_PROGRAMS = 256
_MOST_SPLITS = 8
_GROUP_BYTES = tl.constexpr(GROUP_INPUTS // 2)


@triton.jit  # type: ignore[untyped-decorator]
def _finish(
    sums: tl.tensor,
    members: tl.tensor,
    outputs: tl.tensor,
    num_rows: tl.tensor,
    base: tl.tensor,
    base_stride: tl.tensor,
    out: tl.tensor,
    parts: tl.tensor,
    arrivals: tl.tensor,
    num_outputs: tl.tensor,
    IS_SPLIT: tl.constexpr,
    HAS_BASE: tl.constexpr,
) -> None:
    """Leave a tile, or a part of one; whoever brings the last part adds them all."""
    is_inside = (members < num_rows)[:, None] & (outputs < num_outputs)[None, :]
    places = members[:, None] * num_outputs + outputs[None, :]
    is_last = True
    if IS_SPLIT:
        tl.store(parts + tl.program_id(2) * num_rows * num_outputs + places, sums, mask=is_inside)
        tl.debug_barrier()  # all threads' stores come before the arrival is told
        arrival = arrivals + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        is_last = tl.atomic_add(arrival, 1, sem="acq_rel") == tl.num_programs(2) - 1
        if is_last:
            tl.store(arrival, 0)
            sums = tl.zeros_like(sums)
            for split in range(tl.num_programs(2)):
                part = parts + split * num_rows * num_outputs + places
                sums += tl.load(part, mask=is_inside, other=0.0, cache_modifier=".cg")
    if is_last:
        if HAS_BASE:
            place = base + members[:, None] * base_stride + outputs[None, :]
            sums += tl.load(place, mask=is_inside, other=0.0).to(tl.float32)
        tl.store(out + places, sums.to(out.dtype.element_ty), mask=is_inside)


@triton.jit  # type: ignore[untyped-decorator]
def _tiles_bytes_kernel(
    rows: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    base: tl.tensor,
    out: tl.tensor,
    parts: tl.tensor,
    arrivals: tl.tensor,
    num_rows: tl.tensor,
    row_stride: tl.tensor,
    base_stride: tl.tensor,
    factor: tl.tensor,
    num_inputs: tl.tensor,
    num_outputs: tl.tensor,
    IS_FP8: tl.constexpr,
    HAS_BASE: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
) -> None:
    outputs = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    members = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    is_output, is_member = outputs < num_outputs, members < num_rows
    steps = tl.cdiv(num_inputs, BLOCK_INPUTS)
    steps_per_split = tl.cdiv(steps, tl.num_programs(2))
    start = tl.program_id(2) * steps_per_split
    sums = tl.zeros([BLOCK_ROWS, BLOCK_OUTPUTS], tl.float32)
    for step in range(start, tl.minimum(steps, start + steps_per_split)):
        inputs = step * BLOCK_INPUTS + tl.arange(0, BLOCK_INPUTS)
        is_input = inputs < num_inputs
        source = rows + members[:, None] * row_stride + inputs[None, :]
        values = tl.load(source, mask=is_member[:, None] & is_input[None, :], other=0.0)
        place = codes + outputs[None, :] * num_inputs + inputs[:, None]
        code = tl.load(place, mask=is_output[None, :] & is_input[:, None], other=0)
        sums = tl.dot(values, number(code, IS_FP8, values.dtype), sums, input_precision="ieee")
    sums *= (tl.load(scales + outputs, mask=is_output, other=0.0) * factor)[None, :]
    _finish(
        sums, members, outputs, num_rows, base, base_stride, out, parts, arrivals, num_outputs, IS_SPLIT, HAS_BASE
    )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _tiles_int4_kernel(
    rows: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    base: tl.tensor,
    out: tl.tensor,
    parts: tl.tensor,
    arrivals: tl.tensor,
    num_rows: tl.tensor,
    row_stride: tl.tensor,
    base_stride: tl.tensor,
    num_inputs: tl.tensor,
    num_outputs: tl.tensor,
    num_groups: tl.tensor,
    HAS_BASE: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
) -> None:
    outputs = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    members = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    is_output, is_member = outputs < num_outputs, members < num_rows
    pairs = tl.arange(0, _GROUP_BYTES)
    groups_per_split = tl.cdiv(num_groups, tl.num_programs(2))
    start = tl.program_id(2) * groups_per_split
    sums = tl.zeros([BLOCK_ROWS, BLOCK_OUTPUTS], tl.float32)
    for group in range(start, tl.minimum(num_groups, start + groups_per_split)):
        inputs = group * (2 * _GROUP_BYTES) + pairs
        source = rows + members[:, None] * row_stride + inputs[None, :]
        low_values = tl.load(source, mask=is_member[:, None] & (inputs < num_inputs)[None, :], other=0.0)
        is_high = (inputs + _GROUP_BYTES < num_inputs)[None, :]
        high_values = tl.load(source + _GROUP_BYTES, mask=is_member[:, None] & is_high, other=0.0)
        place = outputs[None, :] * (num_groups * _GROUP_BYTES) + group * _GROUP_BYTES + pairs[:, None]
        low, high = halves(tl.load(codes + place, mask=is_output[None, :], other=0), low_values.dtype)
        of_group = tl.dot(low_values, low, input_precision="ieee")
        of_group = tl.dot(high_values, high, of_group, input_precision="ieee")
        sums += of_group * tl.load(scales + group * num_outputs + outputs, mask=is_output, other=0.0)[None, :]
    _finish(
        sums, members, outputs, num_rows, base, base_stride, out, parts, arrivals, num_outputs, IS_SPLIT, HAS_BASE
    )  # fmt: skip


class _Tile(NamedTuple):
    """Shape of what one program computes, and how."""

    rows: int
    outputs: int
    inputs: int
    num_warps: int
    num_stages: int


def _tile_for(num_rows: int, kind: str, dtype: torch.dtype) -> _Tile:
    """Sized to stay below 100 kB of shared memory, which every GPU since Ampere has."""
    if dtype == torch.float32:
        return _Tile(16, 16, 64, 4, 2)
    if num_rows <= 32:
        return _Tile(16 if num_rows <= 16 else 32, 32, 128, 4, 4)
    if num_rows <= 64:
        return _Tile(64, 32, 64, 4, 4)
    if num_rows < 512 or kind == "int4":
        return _Tile(128, 64, 64, 8, 2 if kind == "int4" else 3)
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

    def __call__(self, rows: Tensor, base: Tensor | None, out: Tensor) -> None:
        """See `product_plain`; the result goes to `out`, which may be `base`. Rows lie side by side in memory."""
        weights, num_rows = self._weights, len(rows)
        tile = _tile_for(num_rows, weights.kind, rows.dtype)
        is_int4, is_fp8 = weights.kind == "int4", weights.kind == "fp8"
        tiles = (triton.cdiv(weights.num_outputs, tile.outputs), triton.cdiv(num_rows, tile.rows))
        steps = len(weights.scales) if is_int4 else triton.cdiv(weights.num_inputs, tile.inputs)
        splits = num_splits(tiles[0] * tiles[1], steps)
        part_size = num_rows * weights.num_outputs if splits > 1 else 0
        parts = torch.empty(splits * part_size, dtype=torch.float32, device=rows.device)
        base_stride = base.stride(0) if base is not None and base.dim() == 2 else 0
        sizes = {
            "num_inputs": weights.num_inputs, "num_outputs": weights.num_outputs, "HAS_BASE": base is not None,
            "IS_SPLIT": splits > 1, "BLOCK_ROWS": tile.rows, "BLOCK_OUTPUTS": tile.outputs,
            "num_warps": tile.num_warps, "num_stages": tile.num_stages,
        }  # fmt: skip
        if is_int4:
            _tiles_int4_kernel[(*tiles, splits)](
                rows, weights.codes, weights.scales, base, out, parts, self._arrivals, num_rows,
                rows.stride(0), base_stride, num_groups=steps, **sizes,
            )  # fmt: skip
        else:
            _tiles_bytes_kernel[(*tiles, splits)](
                rows, weights.codes.view(torch.uint8) if is_fp8 else weights.codes, weights.scales, base, out, parts,
                self._arrivals, num_rows, rows.stride(0), base_stride, FP8_FACTOR if is_fp8 else 1.0,
                IS_FP8=is_fp8, BLOCK_INPUTS=tile.inputs, **sizes,
            )  # fmt: skip
