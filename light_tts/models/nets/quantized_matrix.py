"""A matrix of the language model's body in fewer bits (`kernels/quantized_weights.py` has the formats)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from light_tts.kernels.fp8_product import RoundRows, fits_fp8_product, fp8_product
from light_tts.kernels.quantized_weights import QuantizedWeights, WeightKind, product_plain, quantize
from light_tts.models.nets.matrix import Matrix

if TYPE_CHECKING:
    from light_tts.kernels.quantized_product_triton import QuantizedProduct

# From so many rows on, fp8 rounds the rows too; below, reading the weights is what takes the time.
LEAST_FP8_ROWS = 64

# rows [B, inputs], base [outputs] or [B, outputs] or None, and whether the result takes the memory of the base.
Product = Callable[[Tensor, Tensor | None, bool], Tensor]


class QuantizedMatrix(Matrix):
    """Codes and scales in place of numbers; sums in float32.

    On a GPU with Triton the codes become numbers inside the product; elsewhere they do before it, which saves memory
    and costs time. Not two products of one matrix at a time.

    weight:   [out, in] as loaded, rounded once to codes.
    dtype:    of rows and bias.
    kernels:  products of its own, for those who fuse them with what is around them; None where there are none.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, kind: WeightKind, *, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        super().__init__(weight.shape[1], weight.shape[0])
        self.weights = quantize(weight.to(device), kind)
        self.bias = None if bias is None else bias.to(device=device, dtype=dtype)
        self.num_bytes_saved = weight.numel() * dtype.itemsize - self.weights.num_bytes
        self.kernels = _kernels(self.weights)
        self._product = _choose_product(self.weights, self.kernels, dtype)

    def multiply(self, rows: Tensor) -> Tensor:
        """See `Matrix.multiply`."""
        return self._product(rows, self.bias, False)

    def accumulate(self, total: Tensor, rows: Tensor) -> Tensor:
        """See `Matrix.accumulate`."""
        return self._product(rows, total, True)


def _kernels(weights: QuantizedWeights) -> QuantizedProduct | None:
    if weights.codes.device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return None
    from light_tts.kernels.quantized_product_triton import QuantizedProduct

    return QuantizedProduct(weights)


def _choose_product(weights: QuantizedWeights, kernels: QuantizedProduct | None, dtype: torch.dtype) -> Product:
    if kernels is None:
        return partial(_plain, weights)
    if not fits_fp8_product(weights, dtype):
        return kernels
    from light_tts.kernels.fp8_rows_triton import round_rows

    return partial(_fp8, weights, kernels, round_rows)


def _plain(weights: QuantizedWeights, rows: Tensor, base: Tensor | None, in_place: bool) -> Tensor:
    return product_plain(rows, weights, base)


def _fp8(
    weights: QuantizedWeights, few: Product, round_rows: RoundRows, rows: Tensor, base: Tensor | None, in_place: bool
) -> Tensor:
    if len(rows) < LEAST_FP8_ROWS:
        return few(rows, base, in_place)
    return fp8_product(rows, weights, base, round_rows, in_place=in_place)
