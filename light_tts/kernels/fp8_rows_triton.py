"""Rows rounded to fp8 in one kernel, each with its own scale. Plain version: `fp8_product.round_rows_plain`.

Importing this needs Triton, running it a GPU that knows fp8 (compute capability 8.9 or above).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.launch_sizes import power_of_2
from light_tts.kernels.quantized_weights import FP8_MOST, LEAST_SCALE


@triton.jit  # type: ignore[untyped-decorator]
def _round_rows_kernel(
    rows: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    row_stride: tl.tensor,
    width: tl.tensor,
    most: tl.tensor,
    LEAST_SCALE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    places = tl.arange(0, BLOCK)
    is_inside = places < width
    values = tl.load(rows + row * row_stride + places, mask=is_inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(values), axis=0) / most, LEAST_SCALE)
    code = tl.minimum(tl.maximum(values / scale, -most), most)
    tl.store(codes + row * width + places, code.to(codes.dtype.element_ty), mask=is_inside)
    tl.store(scales + row, scale)


def round_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """See `round_rows_plain`; the numbers of a row lie side by side."""
    num_rows, width = rows.shape
    codes = torch.empty(num_rows, width, dtype=torch.float8_e4m3fn, device=rows.device)
    scales = torch.empty(num_rows, 1, dtype=torch.float32, device=rows.device)
    block = power_of_2(width)
    _round_rows_kernel[(num_rows,)](
        rows,
        codes,
        scales,
        rows.stride(0),
        width,
        FP8_MOST,
        LEAST_SCALE=LEAST_SCALE,
        BLOCK=block,
        num_warps=8 if block > 2048 else 4,
    )
    return codes, scales
