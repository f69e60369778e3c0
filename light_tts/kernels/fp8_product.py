"""Products in which the rows are rounded to fp8 too (W8A8): the plain version, and the tensor cores' own.

Rows are rounded at each product with a scale of their own, so that what a row gives does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from light_tts.kernels.quantized_weights import FP8_MOST, LEAST_SCALE, QuantizedWeights

RoundRows = Callable[[Tensor], tuple[Tensor, Tensor]]

_ALIGNED = 16  # numbers, of both sides of a matrix


def round_rows_plain(rows: Tensor) -> tuple[Tensor, Tensor]:
    """[B, inputs] in any floating dtype -> codes [B, inputs] float8_e4m3fn and scales [B, 1] float32."""
    exact = rows.float()
    scales = (exact.abs().amax(dim=1, keepdim=True) / FP8_MOST).clamp_(min=LEAST_SCALE)
    return (exact / scales).clamp_(-FP8_MOST, FP8_MOST).to(torch.float8_e4m3fn), scales


def fp8_product_plain(rows: Tensor, weights: QuantizedWeights, base: Tensor | None = None) -> Tensor:
    """Like `product_plain`, from rounded rows."""
    codes, scales = round_rows_plain(rows)
    result = (codes.float() @ weights.codes.float().t()) * scales * weights.scales
    return (result if base is None else result + base.float()).to(rows.dtype)


def fp8_product(
    rows: Tensor, weights: QuantizedWeights, base: Tensor | None, round_rows: RoundRows, *, in_place: bool
) -> Tensor:
    """The same on tensor cores; rows in bfloat16. Rounds the product before `base` [outputs] or [B, outputs] is added.

    in_place:  the result takes the memory of `base` [B, outputs].
    """
    codes, scales = round_rows(rows)
    product: Tensor = torch._scaled_mm(
        codes, weights.codes.t(), scales, weights.scales[None], out_dtype=rows.dtype, use_fast_accum=True
    )
    if base is None:
        return product
    return base.add_(product) if in_place else product.add_(base)


def fits_fp8_product(weights: QuantizedWeights, dtype: torch.dtype) -> bool:
    """True when `fp8_product` can multiply rows of `dtype` with this matrix here."""
    return (
        weights.kind == "fp8"
        and dtype == torch.bfloat16
        and weights.num_inputs % _ALIGNED == weights.num_outputs % _ALIGNED == 0
        and why_no_fp8_product(weights.codes.device) is None
    )


@cache
def why_no_fp8_product(device: torch.device) -> str | None:
    """Why a device multiplies no fp8 numbers; None when it does."""
    if device.type != "cuda":
        return "it is no GPU"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < (8, 9):
        return f"its compute capability is {major}.{minor}, and 8.9 is needed"
    ones = torch.ones(_ALIGNED, _ALIGNED, device=device).to(torch.float8_e4m3fn)
    scale = torch.ones(_ALIGNED, 1, device=device)
    try:  # scales of rows came to Ada later than to Hopper
        torch._scaled_mm(ones, ones.t(), scale, scale.t(), out_dtype=torch.bfloat16, use_fast_accum=True)
    except RuntimeError as error:
        return f"torch {torch.__version__} cannot do it there ({str(error).splitlines()[0]})"
    return None
