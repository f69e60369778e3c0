"""Estimators as few kernels: the same networks with their norms, activations and additions inside the products.

Made from a prepared network, whose weights they share; the network itself is the version they must agree with.
"""

from __future__ import annotations

from typing import Protocol, cast

from torch import Tensor, nn

from light_tts.kernels.flow_attention import RelativePositions
from light_tts.kernels.flow_conv import ConvTails, ConvWeights
from light_tts.models.nets.dense import CausalConv, Dense
from light_tts.models.nets.dense import Norm as NormModule


class PagedSteps(Protocol):
    """What a fused estimator needs of the steps around the new ones: R sequences, G * R rows, T new steps."""

    def attend(
        self,
        layer: int,
        qkv: Tensor,
        heads: int,
        bias: Tensor | None = None,
        rotation: Tensor | None = None,
        positions: RelativePositions | None = None,
    ) -> Tensor:
        """See `SequenceContext`; rotation, positions: see `kernels.flow_attention`."""

    def attend_in_parts(self, layer: int, qkv: Tensor, heads: int, matrix: Tensor) -> Tensor:
        """`attend` and the product after it; see `kernels.flow_stream`."""

    def tails(self, tail: int) -> ConvTails:
        """Kept inputs of a convolution."""

    def places(self) -> Tensor:
        """[R, T] int64: absolute index of each new step."""


class FusedBody(Protocol):
    """The token-to-mel network over paged states; see `flow_net.Body`."""

    reach: int  # steps of the frame level within which queries and keys must lie

    def __call__(self, embedded: Tensor, valid: Tensor | None, tokens: PagedSteps, frames: PagedSteps) -> Tensor:
        """embedded [R, T + L, C], valid [R, T + L, 1] -> mu [R, 2T, 80] float32."""


class FusedEstimator(Protocol):
    """The velocity network over paged states."""

    def prepare(self, context: PagedSteps) -> Tensor | None:
        """What depends on the places of the new steps only, for all evaluations of a call."""

    def __call__(self, inputs: Tensor, time: Tensor, context: PagedSteps, prepared: Tensor | None) -> Tensor:
        """inputs [G * R, T, 320], time [K, D] float32 -> velocity [G * R, T, 80] float32."""


def product(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Matrix and bias of a product."""
    dense = cast(Dense, module)
    return dense.matrix, dense.bias


def biased_product(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Matrix and bias of a product that has one."""
    matrix, bias = product(module)
    assert bias is not None
    return matrix, bias


def norm_of(module: nn.Module) -> tuple[Tensor, Tensor, float]:
    """Weight, bias and epsilon of a LayerNorm."""
    norm = cast(NormModule, module)
    return norm.weight, norm.bias, norm.eps


def conv_of(module: nn.Module, norm: nn.Module | None = None) -> ConvWeights:
    """Weights of a causal convolution and the norm after it."""
    conv = cast(CausalConv, module)
    matrix, bias = biased_product(conv.taps)
    return ConvWeights(matrix, bias, conv.kernel, 1, None if norm is None else norm_of(norm))
