"""The matrix products of a padded step, with what comes before and after them: as kernels of their own, or fused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from light_tts.kernels.quantized_weights import Around
from light_tts.models.nets.matrix import Matrix, PlainMatrix
from light_tts.models.nets.quantized_matrix import QuantizedMatrix
from light_tts.models.nets.speech_lm import SpeechLM

if TYPE_CHECKING:
    from light_tts.kernels.one_row_linear_triton import OneRowLinear
    from light_tts.kernels.split_linear_triton import SplitLinear

RmsNorm = Callable[[Tensor, Tensor, float], Tensor]
SiluMul = Callable[[Tensor], Tensor]


@dataclass
class Residual:
    """The residual stream of a step, between two products.

    total:  [N, C], whose memory sums may use.
    parts:  [P, N, C] float32 that are still to be added; the norm before the next product does it. None: nothing is.
    """

    total: Tensor
    parts: Tensor | None = None


class SeparateProducts:
    """Norm, product and gate one after the other, for matrices of any kind and any number of rows.

    rms_norm, silu_mul:  see `kernels/decoder_rows.py`.
    """

    def __init__(self, rms_norm: RmsNorm, silu_mul: SiluMul) -> None:
        self._rms_norm, self._silu_mul = rms_norm, silu_mul

    def norm_multiply(self, residual: Residual, norm: Tensor, eps: float, matrix: Matrix) -> Tensor:
        """`rms_norm(residual) @ W + bias`."""
        return matrix.multiply(self._normed(residual, norm, eps))

    def norm_gated(self, residual: Residual, norm: Tensor, eps: float, matrix: Matrix) -> Tensor:
        """`silu(gate) * up`, where gate and up are the halves of `rms_norm(residual) @ W`."""
        return self._silu_mul(matrix.multiply(self._normed(residual, norm, eps)))

    def accumulate(self, residual: Residual, rows: Tensor, matrix: Matrix) -> None:
        """Add `rows @ W`; a norm lies between any two of these."""
        residual.total = matrix.accumulate(residual.total, rows)

    def logits(self, residual: Residual, selected: Tensor | None, lm: SpeechLM) -> Tensor:
        """Final norm and head of the selected rows [S] int64, or of all: [S, V] float32."""
        hidden = residual.total if selected is None else residual.total.index_select(0, selected)
        return lm.logits(self._rms_norm(hidden.float(), lm.body.norm, lm.config.norm_eps))

    def _normed(self, residual: Residual, norm: Tensor, eps: float) -> Tensor:
        return self._rms_norm(residual.total, norm, eps)


class FusedProducts(SeparateProducts):
    """One kernel each, where the matrix is a plain one or has kernels of its own; for few rows.

    one_row:    norm, gate and sum are in the product.
    more_rows:  what a product adds is left in parts, which the norm that follows adds up.
    """

    def __init__(self, rms_norm: RmsNorm, silu_mul: SiluMul, one_row: OneRowLinear, more_rows: SplitLinear) -> None:
        super().__init__(rms_norm, silu_mul)
        self._one_row, self._more_rows = one_row, more_rows

    def norm_multiply(self, residual: Residual, norm: Tensor, eps: float, matrix: Matrix) -> Tensor:
        """See `SeparateProducts.norm_multiply`."""
        total = residual.total
        if isinstance(matrix, QuantizedMatrix) and matrix.kernels is not None and residual.parts is None:
            return matrix.kernels(total, matrix.bias, around=Around(norm, eps, overlaps=self._one_row.overlaps))
        if not isinstance(matrix, PlainMatrix):
            return super().norm_multiply(residual, norm, eps, matrix)
        if len(total) == 1:
            return self._one_row.norm_linear(total, norm, eps, matrix.weight, matrix.bias)
        return self._more_rows.linear(self._normed(residual, norm, eps), matrix.weight, matrix.bias)

    def norm_gated(self, residual: Residual, norm: Tensor, eps: float, matrix: Matrix) -> Tensor:
        """See `SeparateProducts.norm_gated`."""
        total = residual.total
        if isinstance(matrix, QuantizedMatrix) and matrix.kernels is not None and residual.parts is None:
            around = Around(norm, eps, is_gated=True, overlaps=self._one_row.overlaps)
            return matrix.kernels(total, around=around)
        if not isinstance(matrix, PlainMatrix):
            return super().norm_gated(residual, norm, eps, matrix)
        if len(total) == 1:
            return self._one_row.norm_gated(total, norm, eps, matrix.weight)
        return self._more_rows.gated(self._normed(residual, norm, eps), matrix.weight)

    def accumulate(self, residual: Residual, rows: Tensor, matrix: Matrix) -> None:
        """See `SeparateProducts.accumulate`."""
        assert residual.parts is None, "a norm lies between two sums"
        if isinstance(matrix, QuantizedMatrix) and matrix.kernels is not None:
            around = Around(overlaps=self._one_row.overlaps)
            residual.total = matrix.kernels(rows, residual.total, in_place=True, around=around)
        elif not isinstance(matrix, PlainMatrix):
            super().accumulate(residual, rows, matrix)
        elif len(rows) == 1:
            self._one_row.linear_add(residual.total, rows, matrix.weight)
        else:
            residual.parts = self._more_rows.parts(rows, matrix.weight)

    def logits(self, residual: Residual, selected: Tensor | None, lm: SpeechLM) -> Tensor:
        """See `SeparateProducts.logits`."""
        norm, eps = lm.body.norm, lm.config.norm_eps
        if len(residual.total) == 1:
            return self._one_row.norm_linear(residual.total, norm, eps, lm.head.t(), lm.head_bias)
        normed = self._normed(residual, norm, eps, torch.float32)
        if selected is not None:
            normed = normed.index_select(0, selected)
        return self._more_rows.linear(normed, lm.head.t(), lm.head_bias)

    def _normed(self, residual: Residual, norm: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
        """In `dtype`, or else in that of the residual stream."""
        parts, residual.parts = residual.parts, None
        if parts is not None:
            return self._more_rows.add_norm(residual.total, parts, norm, eps, dtype or residual.total.dtype)
        return self._rms_norm(residual.total if dtype is None else residual.total.to(dtype), norm, eps)


def can_fuse(dtype: torch.dtype) -> bool:
    """True for dtypes in which rows that are not yet scaled by their norm cannot overflow."""
    return dtype in (torch.bfloat16, torch.float32)
