"""The diffusion transformer that estimates velocities (spec: flow, section 8). Time-major throughout."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from light_tts.models.nets.context import SequenceContext
from light_tts.models.nets.dense import Dense, Tail, dense_of, mish
from light_tts.models.nets.euler_time import sinusoid

MODULATIONS = 6  # shift, scale, gate of attention, then of feed-forward
NORM_EPS = 1e-6
Rotation = tuple[Tensor, Tensor]  # cosines and sines, [B or 1, T, d / 2]


def modulated_norm(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without parameters, then scale and shift [B or 1, 1, D]; `scale` already has its 1 added."""
    return torch.addcmul(shift, F.layer_norm(h, h.shape[-1:], eps=NORM_EPS), scale)


def rotate_(x: Tensor, rotation: Rotation) -> None:
    """Rotate the interleaved pairs of x [B, T, d] in place, computed in float32."""
    cos, sin = rotation
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    rotated = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    x.copy_(rotated.flatten(-2))


class ConvPositions(nn.Module):
    """Position from the neighbourhood: two grouped causal convolutions."""

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv1d(width, width, kernel, groups=groups))
        self.conv2 = nn.Sequential(nn.Conv1d(width, width, kernel, groups=groups))
        self.left = kernel - 1
        self.tails = {tail: Tail(self.left, width) for tail in range(2)}

    def prepare(self, dtype: torch.dtype, device: torch.device | str) -> None:
        """Cast and move."""
        self.to(device=device, dtype=dtype)
        self.dtype = dtype

    def forward(self, x: Tensor, context: SequenceContext) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        for tail, conv in enumerate((self.conv1, self.conv2)):
            extended = context.extend(tail, x.to(self.dtype), self.left)
            x = mish(conv(extended.transpose(1, 2)).transpose(1, 2))
        return x


class InputEmbedding(nn.Module):
    """All inputs of a frame to the width of the transformer, and its position."""

    def __init__(self, in_channels: int, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.proj: nn.Module = nn.Linear(in_channels, width)
        self.conv_pos_embed = ConvPositions(width, kernel, groups)

    def prepare(self, dtype: torch.dtype, device: torch.device | str) -> None:
        """Cast and move the matrix."""
        self.proj = dense_of(cast(nn.Linear, self.proj), dtype=dtype, device=device)

    def forward(self, x: Tensor, context: SequenceContext) -> Tensor:
        """[B, T, in] -> [B, T, D] float32."""
        h = self.proj(x).float()
        return cast(Tensor, h + self.conv_pos_embed(h, context))


class Attention(nn.Module):
    """Multi-head self-attention; rotary positions touch the first head only, as the checkpoints were trained."""

    def __init__(self, width: int, heads: int, head_width: int, layer: int) -> None:
        super().__init__()
        self.heads, self.layer = heads, layer
        self.inner = heads * head_width
        for name in ("to_q", "to_k", "to_v"):
            self.add_module(name, nn.Linear(width, self.inner))
        self.to_out = nn.ModuleList([nn.Linear(self.inner, width)])

    def prepare(self, dtype: torch.dtype, device: torch.device | str) -> None:
        """Fuse q, k and v."""
        names = ("to_q", "to_k", "to_v")
        self.qkv: Dense = dense_of(
            *(cast(nn.Linear, getattr(self, name)) for name in names), dtype=dtype, device=device
        )
        for name in names:
            delattr(self, name)
        self.to_out[0] = dense_of(cast(nn.Linear, self.to_out[0]), dtype=dtype, device=device)

    def forward(self, x: Tensor, rotation: Rotation, context: SequenceContext) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        qkv = self.qkv(x)
        rotated = 2 * rotation[0].shape[-1]
        rotate_(qkv[..., :rotated], rotation)
        rotate_(qkv[..., self.inner : self.inner + rotated], rotation)
        return cast(Tensor, self.to_out[0](context.attend(self.layer, qkv, self.heads)))


class FeedForward(nn.Module):
    """Linear, tanh-GELU, linear; published as `ff.0.0` and `ff.2`."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.ff = nn.Sequential(nn.Sequential(nn.Linear(width, hidden)), nn.Identity(), nn.Linear(hidden, width))

    def prepare(self, dtype: torch.dtype, device: torch.device | str) -> None:
        """Cast and move the matrices."""
        first = cast(nn.Linear, cast(nn.Sequential, self.ff[0])[0])
        self.ff[0] = dense_of(first, dtype=dtype, device=device, activation="gelu_tanh")
        self.ff[2] = dense_of(cast(nn.Linear, self.ff[2]), dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return cast(Tensor, self.ff[2](self.ff[0](x)))


class TimeModulation(nn.Module):
    """Time vector to shifts, scales and gates; stays in float32 on the CPU, since its results are tabulated."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, parts * width)
        self.parts = parts

    def table(self, vector: Tensor) -> Tensor:
        """[n, D] -> [n, parts, D]."""
        return cast(Tensor, self.linear(F.silu(vector)).unflatten(-1, (self.parts, -1)))


class DiTBlock(nn.Module):
    """Attention and feed-forward, each scaled, shifted and gated by time; the residual stream is float32."""

    def __init__(self, width: int, heads: int, head_width: int, hidden: int, layer: int) -> None:
        super().__init__()
        self.first = layer * MODULATIONS  # of this block's rows in the time table
        self.attn_norm = TimeModulation(width, MODULATIONS)
        self.attn = Attention(width, heads, head_width, layer)
        self.ff = FeedForward(width, hidden)

    def forward(self, h: Tensor, time: Tensor, rotation: Rotation, context: SequenceContext) -> Tensor:
        """[B, T, D] float32 -> the same. time: [B or 1, K, 1, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = time[:, self.first : self.first + MODULATIONS].unbind(1)
        h = torch.addcmul(h, gate1, self.attn(modulated_norm(h, shift1, scale1), rotation, context).float())
        return torch.addcmul(h, gate2, self.ff(modulated_norm(h, shift2, scale2)).float())


class FinalNorm(TimeModulation):
    """The last norm; its table rows are scale, shift, in this order."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 2)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        return modulated_norm(h, time[:, -1], time[:, -2])


class TimeEmbedding(nn.Module):
    """Sinusoid of t to the time vector; stays in float32 on the CPU."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(in_width, width), nn.SiLU(), nn.Linear(width, width))
        self.in_width = in_width

    def forward(self, times: Tensor) -> Tensor:
        """[n] -> [n, D]."""
        return cast(Tensor, self.time_mlp(sinusoid(times, self.in_width)))


class RotaryFrequencies(nn.Module):
    """The stored inverse frequencies, [d / 2]."""

    inv_freq: Tensor

    def __init__(self, half_width: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", torch.empty(half_width))

    def prepare(self, dtype: torch.dtype, device: torch.device | str) -> None:
        """Move, stay in float32."""
        self.inv_freq = self.inv_freq.to(device)

    def forward(self, positions: Tensor) -> Rotation:
        """[B or 1, T] -> cosines and sines, [B or 1, T, d / 2] float32."""
        angles = positions[..., None].float() * self.inv_freq
        return angles.cos(), angles.sin()


class DiT(nn.Module):
    """Velocity of the flow: x, prompt mel, mu and speaker at time t -> dx/dt."""

    def __init__(
        self,
        *,
        in_channels: int,
        width: int,
        mel_bins: int,
        heads: int,
        head_width: int,
        hidden: int,
        time_width: int,
        kernel: int,
        groups: int,
        depth: int,
    ) -> None:
        super().__init__()
        self.num_attention_layers = depth
        self.attention_heads, self.attention_width = heads, heads * head_width
        self.time_embed = TimeEmbedding(time_width, width)
        self.input_embed = InputEmbedding(in_channels, width, kernel, groups)
        self.rotary_embed = RotaryFrequencies(head_width // 2)
        self.transformer_blocks = nn.ModuleList(
            DiTBlock(width, heads, head_width, hidden, layer) for layer in range(depth)
        )
        self.norm_out = FinalNorm(width)
        self.proj_out: nn.Module = nn.Linear(width, mel_bins)

    def prepare(self, dtype: torch.dtype, device: torch.device | str) -> None:
        """Cast and move the output matrix."""
        self.proj_out = dense_of(cast(nn.Linear, self.proj_out), dtype=dtype, device=device)

    def condition_time(self, times: Tensor) -> Tensor:
        """[n] -> [n, 6 * depth + 2, D] float32: shifts, scales (1 added) and gates of all blocks at these times."""
        vector = self.time_embed(times)
        tables = []
        for block in self.transformer_blocks:
            table = cast(DiTBlock, block).attn_norm.table(vector)
            table[:, 1::3] += 1.0
            tables.append(table)
        last = self.norm_out.table(vector)
        last[:, 0] += 1.0
        return torch.cat([*tables, last], dim=1)

    @staticmethod
    def static_inputs(mu: Tensor, speaker: Tensor, cond: Tensor) -> Tensor:
        """mu, cond: [B, T, 80], speaker: [B, 80] -> [B, T, 240]: the inputs that do not change from step to step."""
        return torch.cat([cond, mu, speaker[:, None].expand(-1, mu.shape[1], -1)], dim=-1)

    def forward(self, x: Tensor, static: Tensor, time: Tensor, context: SequenceContext) -> Tensor:
        """x: [B, T, 80], static: see `static_inputs`, time: [B or 1, K, D] -> velocity [B, T, 80] float32."""
        h = self.input_embed(torch.cat([x, static], dim=-1), context)
        time = time[:, :, None]
        rotation = self.rotary_embed(context.positions())
        for block in self.transformer_blocks:
            h = block(h, time, rotation, context)
        return cast(Tensor, self.proj_out(self.norm_out(h, time)).float())
