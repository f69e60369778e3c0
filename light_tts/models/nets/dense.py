"""Matrix products of the flow networks, in the form that computes fastest, with the published parameters as input.

Modules are declared with the published parameter names, loaded, and then *prepared*: matrices are cast, fused and
moved once; what stays in float32 (norms, time conditioning) stays.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from light_tts.models.nets.context import SequenceContext

Activation = Literal["none", "gelu", "gelu_tanh", "silu", "leaky_relu"]


class Tail(NamedTuple):
    """What a causal convolution needs of the steps before: the last `left` inputs of `channels` numbers."""

    left: int
    channels: int

    @property
    def num_values(self) -> int:
        """Numbers per row."""
        return self.left * self.channels


class Dense(nn.Module):
    """activation(x W^T + b), W in `dtype`: x [..., in] of any float type -> [..., out] in `dtype`.

    weight: [out, in], bias: [out] or None. Inference only.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        activation: Activation = "none",
    ) -> None:
        super().__init__()
        self.activation: Activation = activation
        self.dtype = dtype
        # A plain attribute: what is fused, cast or moved is no part of the published state dict.
        self.matrix = weight.detach().to(device=device, dtype=dtype).contiguous()
        self.bias = None if bias is None else bias.detach().to(device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last axis."""
        # On a CPU this beats oneDNN's packed products, whose built-in GELU alone takes as long as the product.
        return activate(F.linear(x.to(self.dtype), self.matrix, self.bias), self.activation)


def activate(x: Tensor, activation: Activation) -> Tensor:
    """The activation by name."""
    if activation == "gelu":
        return F.gelu(x)
    if activation == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
    if activation == "silu":
        return F.silu(x)
    if activation == "leaky_relu":
        return F.leaky_relu(x, 0.01)
    return x


def dense_of(
    *linears: nn.Linear, dtype: torch.dtype, device: torch.device | str, activation: Activation = "none"
) -> Dense:
    """One product for one or several loaded layers over the same input, outputs side by side.

    A layer without bias among layers with one counts as bias zero.
    """
    weight = torch.cat([linear.weight for linear in linears]) if len(linears) > 1 else linears[0].weight
    biases = [linear.bias for linear in linears]
    bias: Tensor | None = None
    if any(value is not None for value in biases):
        bias = torch.cat(
            [
                value if value is not None else linear.weight.new_zeros(linear.out_features)
                for value, linear in zip(biases, linears, strict=True)
            ]
        )
    return Dense(weight, bias, dtype=dtype, device=device, activation=activation)


class Conv(nn.Module):
    """A convolution over time as a matrix product on unfolded frames; loaded as `weight [out, in, k]`, `bias [out]`.

    forward takes [B, T + k - 1, in], time-major, and returns [B, T, out]: it pads nothing by itself.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, in_channels: int, out_channels: int, kernel: int, activation: Activation = "none") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.kernel = kernel
        self.activation: Activation = activation

    def prepare(self, dtype: torch.dtype, device: torch.device | str) -> None:
        """Turn the loaded weight into one matrix [out, k * in]."""
        assert self.weight is not None
        matrix = self.weight.permute(0, 2, 1).reshape(self.weight.shape[0], -1)
        self.taps = Dense(matrix, self.bias, dtype=dtype, device=device, activation=self.activation)
        self.weight = self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        """[B, T + k - 1, in] -> [B, T, out]."""
        if self.kernel == 1:
            return cast(Tensor, self.taps(x))
        batch, frames, channels = x.shape
        x = x.contiguous()
        unfolded = x.as_strided(
            (batch, frames - self.kernel + 1, self.kernel * channels), (frames * channels, channels, 1)
        )
        # Rows of the view overlap, which matrix products cannot read: this copy is what makes it one product.
        return cast(Tensor, self.taps(unfolded.contiguous()))


class CausalConv(Conv):
    """A convolution that sees only the past; the context supplies the k - 1 frames on the left.

    tail:  index of this convolution among those of its network, for contexts that keep tails between calls.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, tail: int) -> None:
        super().__init__(in_channels, out_channels, kernel)
        self.tail = tail
        self.tails = {tail: Tail(kernel - 1, in_channels)}

    def forward(self, x: Tensor, context: SequenceContext | None = None) -> Tensor:
        """[B, T, in] -> [B, T, out]."""
        assert context is not None
        return super().forward(context.extend(self.tail, x, self.kernel - 1))


class Norm(nn.LayerNorm):
    """LayerNorm computed and returned in float32 whatever comes in."""

    def prepare(self, dtype: torch.dtype, device: torch.device | str) -> None:
        """Move, stay in float32."""
        self.to(device=device, dtype=torch.float32)

    def forward(self, input: Tensor) -> Tensor:
        """[..., C] -> [..., C] float32."""
        return F.layer_norm(input.float(), self.normalized_shape, self.weight, self.bias, self.eps)


def prepare_all(root: nn.Module, dtype: torch.dtype, device: torch.device | str) -> None:
    """Prepare every module of a loaded tree."""
    with torch.no_grad():
        for module in list(root.modules()):
            prepare: Any = getattr(module, "prepare", None)
            if callable(prepare):
                prepare(dtype, device)


def tails_of(network: nn.Module) -> tuple[Tail, ...]:
    """Tails of all causal convolutions of a network with one numbering, in its order."""
    found: dict[int, Tail] = {}
    for module in network.modules():
        found |= getattr(module, "tails", {})
    assert sorted(found) == list(range(len(found))), "convolutions are numbered without gaps"
    return tuple(found[index] for index in range(len(found)))


def mish(x: Tensor) -> Tensor:
    """x * tanh(softplus(x)), in the type of x."""
    if x.device.type != "cpu":
        return F.mish(x)
    # With s = sigmoid(-x): tanh(softplus(x)) = (1 - s^2) / (1 + s^2). On CPU twice as fast as the built-in.
    squared = torch.sigmoid(-x).square_()
    return torch.rsub(squared, 1.0).div_(squared.add_(1.0)).mul_(x)
