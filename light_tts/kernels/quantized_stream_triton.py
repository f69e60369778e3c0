"""Products of few rows with a matrix in fewer bits: one dot product of each output, its codes read once.

Plain version: `quantized_weights.py`. Importing this needs Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.launch_sizes import ceil_div
from light_tts.kernels.quantized_codes_triton import FP8_FACTOR, complete, halves, number
from light_tts.kernels.quantized_weights import GROUP_INPUTS, Around, QuantizedWeights
from light_tts.kernels.triton_math import begin, launch_options

_OUTPUTS, _INPUTS = 8, 512  # of a program, of one turn of its loop
_GROUP_BYTES = tl.constexpr(GROUP_INPUTS // 2)
_ALONE = Around()


@triton.jit  # type: ignore[untyped-decorator]
def _stream_bytes_kernel(
    rows: tl.tensor,
    norm: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    base: tl.tensor,
    out: tl.tensor,
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
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
    OVERLAPS: tl.constexpr,
) -> None:
    begin(OVERLAPS)
    row = tl.program_id(0)
    outputs = tl.program_id(1) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    is_output = outputs < num_outputs
    sums = tl.zeros([BLOCK_OUTPUTS, BLOCK_INPUTS], tl.float32)
    ups = sums
    squares = tl.zeros([BLOCK_INPUTS], tl.float32)
    for first in range(0, num_inputs, BLOCK_INPUTS):
        inputs = first + tl.arange(0, BLOCK_INPUTS)
        is_input = inputs < num_inputs
        is_code = is_output[:, None] & is_input[None, :]
        place = codes + outputs[:, None] * num_inputs + inputs[None, :]
        code = tl.load(place, mask=is_code, other=0)
        values = tl.load(rows + row * row_stride + inputs, mask=is_input, other=0.0).to(tl.float32)
        if HAS_NORM:
            squares += values * values
            values *= tl.load(norm + inputs, mask=is_input, other=0.0)
        sums += values[None, :] * number(code, IS_FP8, tl.float32)
        if IS_GATED:
            up_code = tl.load(place + num_outputs * num_inputs, mask=is_code, other=0)
            ups += values[None, :] * number(up_code, IS_FP8, tl.float32)
    joined = (tl.sum(sums, axis=1) * tl.load(scales + outputs, mask=is_output, other=0.0) * factor)[None, :]
    joined_ups = joined
    if IS_GATED:
        up_scale = tl.load(scales + num_outputs + outputs, mask=is_output, other=0.0)
        joined_ups = (tl.sum(ups, axis=1) * up_scale * factor)[None, :]
    members = row + tl.arange(0, 1)
    complete(
        joined, joined_ups, tl.sum(squares, axis=0) + tl.zeros([1], tl.float32), members, outputs, tl.num_programs(0),
        num_inputs, num_outputs, base, base_stride, out, eps, HAS_NORM, IS_GATED, HAS_BASE,
    )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _group_sums(
    codes: tl.tensor, scales: tl.tensor, is_held: tl.tensor, low_values: tl.tensor, high_values: tl.tensor
) -> tl.tensor:
    """Products of [outputs, groups, 64] bytes of int4 with the values of their inputs [groups, 64]."""
    low, high = halves(tl.load(codes, mask=is_held[:, :, None], other=0), tl.float32)
    scale = tl.load(scales, mask=is_held, other=0.0)
    return (low * low_values[None] + high * high_values[None]) * scale[:, :, None]


@triton.jit  # type: ignore[untyped-decorator]
def _stream_int4_kernel(
    rows: tl.tensor,
    norm: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    base: tl.tensor,
    out: tl.tensor,
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
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    OVERLAPS: tl.constexpr,
) -> None:
    begin(OVERLAPS)
    row = tl.program_id(0)
    outputs = tl.program_id(1) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    is_output = outputs < num_outputs
    pairs = tl.arange(0, _GROUP_BYTES)
    sums = tl.zeros([BLOCK_OUTPUTS, BLOCK_GROUPS, _GROUP_BYTES], tl.float32)
    ups = sums
    squares = tl.zeros([BLOCK_GROUPS, _GROUP_BYTES], tl.float32)
    for first in range(0, num_groups, BLOCK_GROUPS):
        groups = first + tl.arange(0, BLOCK_GROUPS)
        is_held = is_output[:, None] & (groups < num_groups)[None, :]
        inputs = groups[:, None] * (2 * _GROUP_BYTES) + pairs[None, :]
        is_low, is_high = inputs < num_inputs, inputs + _GROUP_BYTES < num_inputs
        source = rows + row * row_stride + inputs
        low_values = tl.load(source, mask=is_low, other=0.0).to(tl.float32)
        high_values = tl.load(source + _GROUP_BYTES, mask=is_high, other=0.0).to(tl.float32)
        if HAS_NORM:
            squares += low_values * low_values + high_values * high_values
            low_values *= tl.load(norm + inputs, mask=is_low, other=0.0)
            high_values *= tl.load(norm + inputs + _GROUP_BYTES, mask=is_high, other=0.0)
        bytes_of_group = groups[None, :, None] * _GROUP_BYTES + pairs[None, None, :]
        place = codes + outputs[:, None, None] * (num_groups * _GROUP_BYTES) + bytes_of_group
        scale_place = scales + groups[None, :] * scale_width + outputs[:, None]
        sums += _group_sums(place, scale_place, is_held, low_values, high_values)
        if IS_GATED:
            up_place = place + num_outputs * num_groups * _GROUP_BYTES
            ups += _group_sums(up_place, scale_place + num_outputs, is_held, low_values, high_values)
    members = row + tl.arange(0, 1)
    complete(
        tl.sum(tl.sum(sums, axis=2), axis=1)[None, :], tl.sum(tl.sum(ups, axis=2), axis=1)[None, :],
        tl.sum(tl.sum(squares, axis=1), axis=0) + tl.zeros([1], tl.float32), members, outputs, tl.num_programs(0),
        num_inputs, num_outputs, base, base_stride, out, eps, HAS_NORM, IS_GATED, HAS_BASE,
    )  # fmt: skip


def stream_product(
    rows: Tensor, weights: QuantizedWeights, base: Tensor | None, out: Tensor, around: Around = _ALONE
) -> None:
    """See `product_plain`; the result goes to `out`, which may be `base`. The numbers of a row lie side by side."""
    num_outputs = out.shape[1]
    grid = (len(rows), ceil_div(num_outputs, _OUTPUTS))
    base_stride = base.stride(0) if base is not None and base.dim() == 2 else 0
    flags = {
        "HAS_NORM": around.norm is not None, "IS_GATED": around.is_gated, "HAS_BASE": base is not None,
        "BLOCK_OUTPUTS": _OUTPUTS, "num_warps": 4, **launch_options(len(rows), around.overlaps),
    }  # fmt: skip
    if weights.kind == "int4":
        _stream_int4_kernel[grid](
            rows, around.norm, weights.codes, weights.scales, base, out, rows.stride(0), base_stride, around.eps,
            weights.num_inputs, num_outputs, *weights.scales.shape, BLOCK_GROUPS=_INPUTS // GROUP_INPUTS, **flags,
        )  # fmt: skip
    else:
        is_fp8 = weights.kind == "fp8"
        _stream_bytes_kernel[grid](
            rows, around.norm, weights.codes.view(torch.uint8) if is_fp8 else weights.codes, weights.scales, base, out,
            rows.stride(0), base_stride, around.eps, FP8_FACTOR if is_fp8 else 1.0,
            weights.num_inputs, num_outputs, IS_FP8=is_fp8, BLOCK_INPUTS=_INPUTS, **flags,
        )  # fmt: skip
