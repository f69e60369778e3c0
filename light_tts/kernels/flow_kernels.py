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
from light_tts.kernels.flow_stream import (
    Stream,
    attention_parts_plain,
    feed_forward_parts_plain,
    stream_norm_linear_plain,
)

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


class _TakesStream(Protocol):
    def __call__(self, rows: int, steps: int, heads: int, hidden: Tensor, /) -> bool: ...


class _StreamNormLinear(Protocol):
    def __call__(
        self, stream: Stream, norm: Norm, matrix: Tensor, bias: Tensor | None, activation: Activation = "none", /
    ) -> tuple[Tensor, Stream]: ...


class _AttentionParts(Protocol):
    def __call__(self, qkv: Tensor, kept: Tensor, pages: FlowPages, heads: int, matrix: Tensor, /) -> Tensor: ...


class _FeedForwardParts(Protocol):
    def __call__(
        self, stream: Stream, norm: Norm, hidden: tuple[Tensor, Tensor], last: tuple[Tensor, Tensor], /
    ) -> Stream: ...


@dataclass(frozen=True)
class StreamKernels:
    """Kernels of transformer blocks of few rows; see `flow_stream.py`.

    takes:  True for B rows of T steps, heads, and the matrix [F, C] of a feed-forward, where they are worth it.
    """

    takes: _TakesStream
    norm_linear: _StreamNormLinear
    attention: _AttentionParts
    feed_forward: _FeedForwardParts


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
    stream: StreamKernels


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
        stream=StreamKernels(
            takes=lambda *_: False,
            norm_linear=stream_norm_linear_plain,
            attention=attention_parts_plain,
            feed_forward=feed_forward_parts_plain,
        ),
    )


def triton_kernels(*, overlaps: bool = False) -> FlowKernels:
    """For CUDA devices, and for Triton's interpreter. Needs Triton.

    overlaps:  small kernels begin while the one before ends, where the device can (`overlapping.py`).
    """
    from light_tts.kernels.flow_attention_few_triton import attention_parts
    from light_tts.kernels.flow_attention_triton import paged_chunk_attention
    from light_tts.kernels.flow_conv_triton import paged_conv
    from light_tts.kernels.flow_feed_forward_triton import feed_forward_parts
    from light_tts.kernels.flow_linear_triton import gated_norm, linear_gelu, linear_residual, norm_linear
    from light_tts.kernels.flow_step_triton import euler_step
    from light_tts.kernels.flow_stream_triton import stream_norm_linear, takes_stream

    return FlowKernels(
        attention=partial(paged_chunk_attention, overlaps=overlaps),
        norm_linear=partial(norm_linear, overlaps=overlaps),
        linear_residual=partial(linear_residual, overlaps=overlaps),
        gated_norm=gated_norm,
        conv=partial(paged_conv, overlaps=overlaps),
        euler_step=euler_step,
        linear_gelu=linear_gelu,
        stream=StreamKernels(
            takes=takes_stream,
            norm_linear=partial(stream_norm_linear, overlaps=overlaps),
            attention=partial(attention_parts, overlaps=overlaps),
            feed_forward=partial(feed_forward_parts, overlaps=overlaps),
        ),
    )
