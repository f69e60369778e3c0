"""Products of few rows with a matrix in fewer bits: one dot product of each output, its codes read once.

Plain version: `quantized_weights.py`. Importing this needs Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.quantized_codes_triton import FP8_FACTOR, halves, number
from light_tts.kernels.quantized_weights import GROUP_INPUTS, QuantizedWeights

_OUTPUTS, _INPUTS = 8, 512  # of a program, of one turn of its loop
_GROUP_BYTES = tl.constexpr(GROUP_INPUTS // 2)


@triton.jit  # type: ignore[untyped-decorator]
def _stream_bytes_kernel(
    rows: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    base: tl.tensor,
    out: tl.tensor,
    row_stride: tl.tensor,
    base_stride: tl.tensor,
    factor: tl.tensor,
    num_inputs: tl.tensor,
    num_outputs: tl.tensor,
    IS_FP8: tl.constexpr,
    HAS_BASE: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    outputs = tl.program_id(1) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    is_output = outputs < num_outputs
    sums = tl.zeros([BLOCK_OUTPUTS, BLOCK_INPUTS], tl.float32)
    for first in range(0, num_inputs, BLOCK_INPUTS):
        inputs = first + tl.arange(0, BLOCK_INPUTS)
        is_input = inputs < num_inputs
        place = codes + outputs[:, None] * num_inputs + inputs[None, :]
        code = tl.load(place, mask=is_output[:, None] & is_input[None, :], other=0)
        values = tl.load(rows + row * row_stride + inputs, mask=is_input, other=0.0).to(tl.float32)
        sums += values[None, :] * number(code, IS_FP8, tl.float32)
    result = tl.sum(sums, axis=1) * tl.load(scales + outputs, mask=is_output, other=0.0) * factor
    if HAS_BASE:
        result += tl.load(base + row * base_stride + outputs, mask=is_output, other=0.0).to(tl.float32)
    tl.store(out + row * num_outputs + outputs, result.to(out.dtype.element_ty), mask=is_output)


@triton.jit  # type: ignore[untyped-decorator]
def _stream_int4_kernel(
    rows: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    base: tl.tensor,
    out: tl.tensor,
    row_stride: tl.tensor,
    base_stride: tl.tensor,
    num_inputs: tl.tensor,
    num_outputs: tl.tensor,
    num_groups: tl.tensor,
    HAS_BASE: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    outputs = tl.program_id(1) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    is_output = outputs < num_outputs
    members = tl.arange(0, _GROUP_BYTES)
    sums = tl.zeros([BLOCK_OUTPUTS, BLOCK_GROUPS, _GROUP_BYTES], tl.float32)
    for first in range(0, num_groups, BLOCK_GROUPS):
        groups = first + tl.arange(0, BLOCK_GROUPS)
        is_group = groups < num_groups
        place = outputs[:, None, None] * (num_groups * _GROUP_BYTES) + (
            groups[None, :, None] * _GROUP_BYTES + members[None, None, :]
        )
        is_code = (is_output[:, None] & is_group[None, :])[:, :, None]
        low, high = halves(tl.load(codes + place, mask=is_code, other=0), tl.float32)
        inputs = groups[:, None] * (2 * _GROUP_BYTES) + members[None, :]
        source = rows + row * row_stride + inputs
        low_values = tl.load(source, mask=inputs < num_inputs, other=0.0).to(tl.float32)
        high_values = tl.load(source + _GROUP_BYTES, mask=inputs + _GROUP_BYTES < num_inputs, other=0.0).to(tl.float32)
        scale = tl.load(
            scales + groups[None, :] * num_outputs + outputs[:, None],
            mask=is_output[:, None] & is_group[None, :],
            other=0.0,
        )
        sums += (low * low_values[None] + high * high_values[None]) * scale[:, :, None]
    result = tl.sum(tl.sum(sums, axis=2), axis=1)
    if HAS_BASE:
        result += tl.load(base + row * base_stride + outputs, mask=is_output, other=0.0).to(tl.float32)
    tl.store(out + row * num_outputs + outputs, result.to(out.dtype.element_ty), mask=is_output)


def stream_product(rows: Tensor, weights: QuantizedWeights, base: Tensor | None, out: Tensor) -> None:
    """See `product_plain`; the result goes to `out`, which may be `base`. Rows lie side by side in memory."""
    grid = (len(rows), triton.cdiv(weights.num_outputs, _OUTPUTS))
    base_stride = base.stride(0) if base is not None and base.dim() == 2 else 0
    sizes = {"num_inputs": weights.num_inputs, "num_outputs": weights.num_outputs, "HAS_BASE": base is not None}
    if weights.kind == "int4":
        groups = len(weights.scales)
        _stream_int4_kernel[grid](
            rows, weights.codes, weights.scales, base, out, rows.stride(0), base_stride,
            **sizes, num_groups=groups, BLOCK_OUTPUTS=_OUTPUTS, BLOCK_GROUPS=_INPUTS // GROUP_INPUTS, num_warps=4,
        )  # fmt: skip
    else:
        is_fp8 = weights.kind == "fp8"
        _stream_bytes_kernel[grid](
            rows, weights.codes.view(torch.uint8) if is_fp8 else weights.codes, weights.scales, base, out,
            rows.stride(0), base_stride, FP8_FACTOR if is_fp8 else 1.0,
            **sizes, IS_FP8=is_fp8, BLOCK_OUTPUTS=_OUTPUTS, BLOCK_INPUTS=_INPUTS, num_warps=4,
        )  # fmt: skip
