"""The kernels of the flow as one set: plain ones for any device, Triton ones for a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from light_tts.kernels.flow_attention import FlowPages, RelativePositions, paged_chunk_attention_plain
from light_tts.kernels.flow_conv import ConvExtras, ConvTails, ConvWeights, paged_conv_plain
from light_tts.kernels.flow_linear import (
    Activation,
    gated_norm_plain,
    linear_gelu_plain,
    linear_residual_plain,
    norm_linear_plain,
)
from light_tts.kernels.flow_step import euler_step_plain

Norm = tuple[Tensor, Tensor, float]


class _Attention(Protocol):
    def __call__(
        self,
        qkv: Tensor,
        kept: Tensor,
        pages: FlowPages,
        heads: int,
        rotation: Tensor | None = None,
        positions: RelativePositions | None = None,
        /,
    ) -> Tensor: ...


class _NormLinear(Protocol):
    def __call__(
        self, x: Tensor, norm: Norm, matrix: Tensor, bias: Tensor | None, activation: Activation = "none", /
    ) -> Tensor: ...


class _LinearResidual(Protocol):
    def __call__(self, x: Tensor, matrix: Tensor, bias: Tensor, residual: Tensor | None, /) -> Tensor: ...


class _GatedNorm(Protocol):
    def __call__(
        self, h: Tensor, update: Tensor | None, gate: Tensor, scale: Tensor, shift: Tensor, eps: float,
        dtype: torch.dtype, /,
    ) -> tuple[Tensor, Tensor]: ...  # fmt: skip


class _Conv(Protocol):
    def __call__(
        self, x: Tensor, weights: ConvWeights, tails: ConvTails, extras: ConvExtras, dtype: torch.dtype, /
    ) -> Tensor: ...


class _EulerStep(Protocol):
    def __call__(self, x: Tensor, velocity: Tensor, guidance: Tensor, step: Tensor, inputs: Tensor, /) -> None: ...


class _LinearGelu(Protocol):
    def __call__(self, x: Tensor, matrix: Tensor, bias: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class FlowKernels:
    """What each does is said at its plain version, in the module of its name."""

    attention: _Attention
    norm_linear: _NormLinear
    linear_residual: _LinearResidual
    gated_norm: _GatedNorm
    conv: _Conv
    euler_step: _EulerStep
    linear_gelu: _LinearGelu


def plain_kernels() -> FlowKernels:
    """For any device; read lengths on the host."""
    return FlowKernels(
        attention=paged_chunk_attention_plain,
        norm_linear=norm_linear_plain,
        linear_residual=linear_residual_plain,
        gated_norm=gated_norm_plain,
        conv=paged_conv_plain,
        euler_step=euler_step_plain,
        linear_gelu=linear_gelu_plain,
    )


def triton_kernels(*, overlaps: bool = False) -> FlowKernels:
    """For CUDA devices, and for Triton's interpreter. Needs Triton.

    overlaps:  small kernels begin while the one before ends, where the device can (`overlapping.py`).
    """
    from light_tts.kernels.flow_attention_triton import paged_chunk_attention
    from light_tts.kernels.flow_conv_triton import paged_conv
    from light_tts.kernels.flow_linear_triton import gated_norm, linear_gelu, linear_residual, norm_linear
    from light_tts.kernels.flow_step_triton import euler_step

    return FlowKernels(
        attention=paged_chunk_attention,
        norm_linear=partial(norm_linear, overlaps=overlaps),
        linear_residual=partial(linear_residual, overlaps=overlaps),
        gated_norm=gated_norm,
        conv=partial(paged_conv, overlaps=overlaps),
        euler_step=euler_step,
        linear_gelu=linear_gelu,
    )
