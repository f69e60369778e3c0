"""The causal one-dimensional UNet that estimates velocities (spec: flow, section 7). Time-major throughout.

There is one resolution only: "down" and "up" do not change the length.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from light_tts.models.nets.context import SequenceContext
from light_tts.models.nets.dense import Activation, CausalConv, Conv, Dense, Norm, dense_of, mish
from light_tts.models.nets.euler_time import sinusoid


class ConvBlock(nn.Module):
    """Causal convolution, LayerNorm over channels, Mish."""

    def __init__(self, in_channels: int, channels: int, kernel: int, tail: int) -> None:
        super().__init__()
        # The gap keeps the published indices: 0 convolution, 2 norm.
        self.block = nn.Sequential(CausalConv(in_channels, channels, kernel, tail), nn.Identity(), Norm(channels))

    def forward(self, x: Tensor, context: SequenceContext) -> Tensor:
        """[B, T, in] -> [B, T, C] float32."""
        return mish(self.block[2](self.block[0](x, context)))


class Resnet(nn.Module):
    """Two ConvBlocks with the time vector added between them, around a 1x1 shortcut."""

    def __init__(self, in_channels: int, channels: int, time_width: int, kernel: int, tail: int, index: int) -> None:
        super().__init__()
        self.index = index  # of this block's vector in the time table
        self.mlp = nn.Sequential(nn.Identity(), nn.Linear(time_width, channels))
        self.block1 = ConvBlock(in_channels, channels, kernel, tail)
        self.block2 = ConvBlock(channels, channels, kernel, tail + 1)
        self.res_conv = Conv(in_channels, channels, 1)

    def forward(self, x: Tensor, time: Tensor, context: SequenceContext) -> Tensor:
        """[B, T, in], time [B or 1, resnets, C] -> [B, T, C] float32."""
        y = self.block1(x, context) + time[:, self.index, None]
        return cast(Tensor, self.block2(y, context) + self.res_conv(x))


class Attention(nn.Module):
    """Multi-head self-attention without positions."""

    def __init__(self, channels: int, heads: int, head_width: int, layer: int) -> None:
        super().__init__()
        self.heads, self.layer = heads, layer
        inner = heads * head_width
        for name in ("to_q", "to_k", "to_v"):
            self.add_module(name, nn.Linear(channels, inner, bias=False))
        self.to_out = nn.ModuleList([nn.Linear(inner, channels)])

    def prepare(self, dtype: torch.dtype, device: torch.device | str) -> None:
        """Fuse q, k and v."""
        names = ("to_q", "to_k", "to_v")
        self.qkv: Dense = dense_of(
            *(cast(nn.Linear, getattr(self, name)) for name in names), dtype=dtype, device=device
        )
        for name in names:
            delattr(self, name)
        self.to_out[0] = dense_of(cast(nn.Linear, self.to_out[0]), dtype=dtype, device=device)

    def forward(self, x: Tensor, context: SequenceContext) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        return cast(Tensor, self.to_out[0](context.attend(self.layer, self.qkv(x), self.heads)))


class FeedForward(nn.Module):
    """Linear, exact GELU, linear; published as `net.0.proj` and `net.2`."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ModuleDict({"proj": nn.Linear(channels, hidden)}), nn.Identity(), nn.Linear(hidden, channels)
        )

    def prepare(self, dtype: torch.dtype, device: torch.device | str) -> None:
        """Cast and move the matrices."""
        first = cast(nn.ModuleDict, self.net[0])["proj"]
        activation: Activation = "gelu"
        self.net[0] = dense_of(cast(nn.Linear, first), dtype=dtype, device=device, activation=activation)
        self.net[2] = dense_of(cast(nn.Linear, self.net[2]), dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return cast(Tensor, self.net[2](self.net[0](x)))


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward, without time input; the residual stream is float32."""

    def __init__(self, channels: int, heads: int, head_width: int, hidden: int, layer: int) -> None:
        super().__init__()
        self.norm1 = Norm(channels)
        self.attn1 = Attention(channels, heads, head_width, layer)
        self.norm3 = Norm(channels)
        self.ff = FeedForward(channels, hidden)

    def forward(self, x: Tensor, context: SequenceContext) -> Tensor:
        """[B, T, C] float32 -> the same."""
        x = x + self.attn1(self.norm1(x), context)
        return cast(Tensor, x + self.ff(self.norm3(x)))


class TimeMLP(nn.Module):
    """Sinusoid of t to the time vector; stays in float32 on the CPU, since its results are tabulated."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_width, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """[n, in] -> [n, width]."""
        return cast(Tensor, self.linear_2(torch.nn.functional.silu(self.linear_1(features))))


class UNet(nn.Module):
    """Velocity of the flow: x, mu, speaker and prompt mel at time t -> dx/dt.

    Numbering for contexts: attention layers and convolutions are counted in the order of computation.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        mel_bins: int,
        heads: int,
        head_width: int,
        hidden: int,
        time_width: int,
        kernel: int,
        num_blocks: int,
        num_mid: int,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.num_attention_layers = (num_mid + 2) * num_blocks
        self.attention_heads, self.attention_width = heads, heads * head_width
        self.time_mlp = TimeMLP(in_channels, time_width)

        def transformers(first_layer: int) -> nn.ModuleList:
            layers = range(first_layer, first_layer + num_blocks)
            return nn.ModuleList(TransformerBlock(channels, heads, head_width, hidden, layer) for layer in layers)

        def stage(inputs: int, index: int, tail: int) -> list[nn.Module]:
            return [Resnet(inputs, channels, time_width, kernel, tail, index), transformers(index * num_blocks)]

        down_tail, up_tail = 2, 3 + 2 * num_mid + 2
        self.down_blocks = nn.ModuleList(
            [nn.ModuleList([*stage(in_channels, 0, 0), CausalConv(channels, channels, kernel, down_tail)])]
        )
        self.mid_blocks = nn.ModuleList(
            nn.ModuleList(stage(channels, 1 + index, 3 + 2 * index)) for index in range(num_mid)
        )
        self.up_blocks = nn.ModuleList(
            [
                nn.ModuleList(
                    [*stage(2 * channels, 1 + num_mid, up_tail - 2), CausalConv(channels, channels, kernel, up_tail)]
                )
            ]
        )
        self.final_block = ConvBlock(channels, channels, kernel, up_tail + 1)
        self.final_proj = Conv(channels, mel_bins, 1)

    def condition_time(self, times: Tensor) -> Tensor:
        """[n] -> [n, resnets, C] float32: what each resnet adds at these times."""
        vector = mish(self.time_mlp(sinusoid(times, self.in_channels)))
        resnets = [stage[0] for stage in (*self.down_blocks, *self.mid_blocks, *self.up_blocks)]
        return torch.stack([resnet.mlp[1](vector) for resnet in resnets], dim=1)

    @staticmethod
    def static_inputs(mu: Tensor, speaker: Tensor, cond: Tensor) -> Tensor:
        """mu, cond: [B, T, 80], speaker: [B, 80] -> [B, T, 240]: the inputs that do not change from step to step."""
        return torch.cat([mu, speaker[:, None].expand(-1, mu.shape[1], -1), cond], dim=-1)

    def forward(self, x: Tensor, static: Tensor, time: Tensor, context: SequenceContext) -> Tensor:
        """x: [B, T, 80], static: see `static_inputs`, time: [B or 1, resnets, C] -> velocity [B, T, 80] float32."""
        down, up = cast(nn.ModuleList, self.down_blocks[0]), cast(nn.ModuleList, self.up_blocks[0])
        skip = self._stage(down, torch.cat([x, static], dim=-1), time, context)
        h = down[2](skip, context)
        for stage in self.mid_blocks:
            h = self._stage(cast(nn.ModuleList, stage), h, time, context)
        h = self._stage(up, torch.cat([h, skip], dim=-1), time, context)
        h = self.final_block(up[2](h, context), context)
        return context.clear_padding(self.final_proj(h).float())

    @staticmethod
    def _stage(stage: nn.ModuleList, h: Tensor, time: Tensor, context: SequenceContext) -> Tensor:
        h = stage[0](h, time, context)
        for block in cast(nn.ModuleList, stage[1]):
            h = block(h, context)
        return h
