"""The matrix products of a padded step, with what comes before and after them: as kernels of their own, or fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from light_tts.kernels.quantized_weights import Around
from light_tts.models.nets.matrix import Matrix, PlainMatrix
from light_tts.models.nets.quantized_matrix import QuantizedMatrix
from light_tts.models.nets.speech_lm import SpeechLM

if TYPE_CHECKING:
    from light_tts.kernels.small_linear_triton import SmallLinear

RmsNorm = Callable[[Tensor, Tensor, float], Tensor]
SiluMul = Callable[[Tensor], Tensor]


class SeparateProducts:
    """Norm, product and gate one after the other, for matrices of any kind and any number of rows.

    rms_norm, silu_mul:  see `kernels/decoder_rows.py`.
    """

    def __init__(self, rms_norm: RmsNorm, silu_mul: SiluMul) -> None:
        self._rms_norm, self._silu_mul = rms_norm, silu_mul

    def norm_multiply(self, hidden: Tensor, norm: Tensor, eps: float, matrix: Matrix) -> Tensor:
        """`rms_norm(hidden) @ W + bias`."""
        return matrix.multiply(self._rms_norm(hidden, norm, eps))

    def norm_gated(self, hidden: Tensor, norm: Tensor, eps: float, matrix: Matrix) -> Tensor:
        """`silu(gate) * up`, where gate and up are the halves of `rms_norm(hidden) @ W`."""
        return self._silu_mul(matrix.multiply(self._rms_norm(hidden, norm, eps)))

    def accumulate(self, total: Tensor, rows: Tensor, matrix: Matrix) -> Tensor:
        """`total + rows @ W`; the memory of `total` may be used for it."""
        return matrix.accumulate(total, rows)

    def logits(self, hidden: Tensor, lm: SpeechLM) -> Tensor:
        """Final norm and head: [B, C] -> [B, V] float32."""
        return lm.logits(self._rms_norm(hidden.float(), lm.body.norm, lm.config.norm_eps))


class FusedProducts(SeparateProducts):
    """One kernel each, where the matrix is a plain one or has kernels of its own; for few rows."""

    def __init__(self, rms_norm: RmsNorm, silu_mul: SiluMul, linear: SmallLinear) -> None:
        super().__init__(rms_norm, silu_mul)
        self._linear = linear

    def norm_multiply(self, hidden: Tensor, norm: Tensor, eps: float, matrix: Matrix) -> Tensor:
        """See `SeparateProducts.norm_multiply`."""
        if isinstance(matrix, PlainMatrix):
            return self._linear.norm_linear(hidden, norm, eps, matrix.weight, matrix.bias)
        if isinstance(matrix, QuantizedMatrix) and matrix.kernels is not None:
            return matrix.kernels(hidden, matrix.bias, around=Around(norm, eps, overlaps=self._linear.overlaps))
        return super().norm_multiply(hidden, norm, eps, matrix)

    def norm_gated(self, hidden: Tensor, norm: Tensor, eps: float, matrix: Matrix) -> Tensor:
        """See `SeparateProducts.norm_gated`."""
        if isinstance(matrix, PlainMatrix):
            return self._linear.norm_gated(hidden, norm, eps, matrix.weight)
        if isinstance(matrix, QuantizedMatrix) and matrix.kernels is not None:
            around = Around(norm, eps, is_gated=True, overlaps=self._linear.overlaps)
            return matrix.kernels(hidden, around=around)
        return super().norm_gated(hidden, norm, eps, matrix)

    def accumulate(self, total: Tensor, rows: Tensor, matrix: Matrix) -> Tensor:
        """See `SeparateProducts.accumulate`."""
        if isinstance(matrix, PlainMatrix):
            return self._linear.linear_add(total, rows, matrix.weight)
        if isinstance(matrix, QuantizedMatrix) and matrix.kernels is not None:
            return matrix.kernels(rows, total, in_place=True, around=Around(overlaps=self._linear.overlaps))
        return super().accumulate(total, rows, matrix)

    def logits(self, hidden: Tensor, lm: SpeechLM) -> Tensor:
        """See `SeparateProducts.logits`."""
        return self._linear.norm_linear(hidden, lm.body.norm, lm.config.norm_eps, lm.head.t(), lm.head_bias)


def can_fuse(dtype: torch.dtype) -> bool:
    """True for dtypes in which rows that are not yet scaled by their norm cannot overflow."""
    return dtype in (torch.bfloat16, torch.float32)
