"""Token-to-mel body with attention: conformer blocks, upsampling, conformer blocks (spec: flow, section 4).

Attention is by relative position, so a step needs its distance to others and never its own place in the sequence.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from light_tts.models.nets.context import SequenceContext
from light_tts.models.nets.dense import Activation, CausalConv, Dense, Norm, dense_of, tails_of
from light_tts.models.nets.lookahead import BodyContexts, BodyShape, LookaheadLayer

_KEPT_DISTANCES = 4096  # position scores are kept for distances up to this; beyond, computed for the call
_UP_KERNEL_TAIL = 0  # index of the upsampling convolution among those of the frame level


def distance_vectors(distances: Tensor, width: int) -> Tensor:
    """[n] signed distances -> [n, width] float32: R(delta), sines and cosines interleaved."""
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device=distances.device)
    rates = torch.exp(exponents * (-math.log(10000.0) / width))
    angles = distances.float()[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class EmbeddingBlock(nn.Module):
    """Linear, LayerNorm, times sqrt(width)."""

    out: nn.Sequential

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(in_channels, width), Norm(width, eps=1e-5))
        self.scale = math.sqrt(width)

    def prepare(self, dtype: torch.dtype, device: torch.device | str) -> None:
        """Cast and move the matrix; the scale joins the norm's own."""
        self.out[0] = dense_of(cast(nn.Linear, self.out[0]), dtype=dtype, device=device)
        norm = cast(Norm, self.out[1])
        norm.weight = nn.Parameter(norm.weight * self.scale, requires_grad=False)
        norm.bias = nn.Parameter(norm.bias * self.scale, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, in] -> [B, T, width] float32."""
        return cast(Tensor, self.out(x))


class RelativeAttention(nn.Module):
    """Multi-head attention with learned scores of the distance between query and key."""

    qkv: Dense
    linear_out: nn.Module
    table: Tensor

    def __init__(self, width: int, heads: int, layer: int) -> None:
        super().__init__()
        self.heads, self.width, self.layer = heads, width, layer
        for name in ("linear_q", "linear_k", "linear_v", "linear_out"):
            self.add_module(name, nn.Linear(width, width))
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(heads, width // heads))
        self.pos_bias_v = nn.Parameter(torch.empty(heads, width // heads))

    def prepare(self, dtype: torch.dtype, device: torch.device | str) -> None:
        """Fuse q, k, v; u joins the bias of q, so that the position term needs v - u only."""
        query, key, value = (cast(nn.Linear, getattr(self, f"linear_{name}")) for name in "qkv")
        query.bias = nn.Parameter(query.bias + self.pos_bias_u.flatten(), requires_grad=False)
        self.qkv = dense_of(query, key, value, dtype=dtype, device=device)
        for name in "qkv":
            delattr(self, f"linear_{name}")
        self.linear_out = dense_of(cast(nn.Linear, self.linear_out), dtype=dtype, device=device)
        self.shift = (self.pos_bias_v - self.pos_bias_u).to(device=device, dtype=dtype)[:, None]
        self.linear_pos.to(device)
        self.dtype, self.device = dtype, torch.device(device)
        self._reach, self._table = 0, torch.empty(0)

    def forward(self, x: Tensor, context: SequenceContext) -> Tensor:
        """[B, T, width] -> [B, T, width]."""
        rows, steps, _ = x.shape
        qkv = self.qkv(x)
        query = qkv[..., : self.width].view(rows, steps, self.heads, -1).transpose(1, 2)
        keys = context.num_keys
        # Column c holds distance keys - 1 - c; query i and key j are (keys - steps) + i - j apart.
        scores = torch.matmul(query + self.shift, self._positions(steps, keys))
        distances = steps + keys - 1
        bias = scores.as_strided(
            (rows, self.heads, steps, keys),
            (self.heads * steps * distances, steps * distances, distances - 1, 1),
            storage_offset=steps - 1,
        )
        if bias.is_cuda:
            # The fused attention kernels read the bias in aligned vectors, which this view is not.
            bias = bias.contiguous()
        return cast(Tensor, self.linear_out(context.attend(self.layer, qkv, self.heads, bias)))

    def _positions(self, steps: int, keys: int) -> Tensor:
        """[H, d, steps + keys - 1]: projected vectors of distances keys - 1 down to 1 - steps, over sqrt(d)."""
        if keys > _KEPT_DISTANCES:
            return self._project(keys - 1, 1 - steps)
        if keys > self._reach:
            # On a GPU at once and for good: recorded calls read the table where it lay when they were recorded.
            is_fixed = self.device.type == "cuda"
            self._reach = _KEPT_DISTANCES if is_fixed else max(2 * self._reach, keys, 128)
            self._table = self._project(self._reach - 1, 1 - self._reach)
        first = self._reach - keys
        return self._table[:, :, first : first + steps + keys - 1]

    def _project(self, farthest: int, nearest: int) -> Tensor:
        # On the device: a call that is being recorded may not copy anything to it.
        vectors = distance_vectors(torch.arange(farthest, nearest - 1, -1, device=self.device), self.width)
        projected = self.linear_pos(vectors).view(len(vectors), self.heads, -1) / math.sqrt(self.width // self.heads)
        return cast(Tensor, projected.permute(1, 2, 0).contiguous().to(self.dtype))


class FeedForward(nn.Module):
    """Linear, SiLU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w_1: nn.Module = nn.Linear(width, hidden)
        self.w_2: nn.Module = nn.Linear(hidden, width)

    def prepare(self, dtype: torch.dtype, device: torch.device | str) -> None:
        """Cast and move the matrices."""
        activations: tuple[tuple[str, Activation], ...] = (("w_1", "silu"), ("w_2", "none"))
        for name, activation in activations:
            linear = cast(nn.Linear, getattr(self, name))
            setattr(self, name, dense_of(linear, dtype=dtype, device=device, activation=activation))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return cast(Tensor, self.w_2(self.w_1(x)))


class ConformerBlock(nn.Module):
    """Pre-norm attention and feed-forward; the residual stream is float32."""

    def __init__(self, width: int, heads: int, hidden: int, layer: int) -> None:
        super().__init__()
        self.norm_mha = Norm(width, eps=1e-12)
        self.self_attn = RelativeAttention(width, heads, layer)
        self.norm_ff = Norm(width, eps=1e-12)
        self.feed_forward = FeedForward(width, hidden)

    def forward(self, x: Tensor, context: SequenceContext) -> Tensor:
        """[B, T, width] float32 -> the same."""
        x = x + self.self_attn(self.norm_mha(x), context)
        return cast(Tensor, x + self.feed_forward(self.norm_ff(x)))


class UpsampleLayer(nn.Module):
    """Every step twice, then a causal convolution that smooths."""

    def __init__(self, channels: int, kernel: int, ratio: int) -> None:
        super().__init__()
        self.conv = CausalConv(channels, channels, kernel, _UP_KERNEL_TAIL)
        self.ratio = ratio

    def forward(self, x: Tensor, context: SequenceContext) -> Tensor:
        """[B, T, C] -> [B, ratio * T, C]."""
        return cast(Tensor, self.conv(torch.repeat_interleave(x, self.ratio, dim=1), context))


class UpsampleConformer(nn.Module):
    """Token embeddings to encoder output at the frame rate.

    kernels:  (second lookahead convolution, upsampling convolution).
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        heads: int,
        hidden: int,
        num_blocks: int,
        num_up_blocks: int,
        lookahead: int,
        kernels: tuple[int, int],
        ratio: int,
    ) -> None:
        super().__init__()
        self.embed = EmbeddingBlock(in_channels, width)
        self.pre_lookahead_layer = LookaheadLayer(width, width, lookahead, kernels[0], tail=0)
        self.encoders = nn.ModuleList(ConformerBlock(width, heads, hidden, layer) for layer in range(num_blocks))
        self.up_layer = UpsampleLayer(width, kernels[1], ratio)
        self.up_embed = EmbeddingBlock(width, width)
        self.up_encoders = nn.ModuleList(ConformerBlock(width, heads, hidden, layer) for layer in range(num_up_blocks))
        self.after_norm = Norm(width, eps=1e-5)
        self.shape = BodyShape(
            num_blocks, num_up_blocks, width, tails_of(self.pre_lookahead_layer), tails_of(self.up_layer)
        )

    def forward(self, embedded: Tensor, valid: Tensor | None, contexts: BodyContexts) -> Tensor:
        """embedded: [B, T + L, in]; valid: [B, T + L, 1], zero where no token is -> [B, rT, width] float32."""
        x = self.embed(embedded)
        if valid is not None:
            # Beyond the last token the lookahead sees zeros, not the embedding of anything.
            x = x * valid
        x = self.pre_lookahead_layer(x, contexts.tokens)
        for block in self.encoders:
            x = block(x, contexts.tokens)
        x = self.up_embed(self.up_layer(x, contexts.frames))
        for block in self.up_encoders:
            x = block(x, contexts.frames)
        return cast(Tensor, self.after_norm(x))


class ConformerBody(nn.Module):
    """The conformer with its projection to mel bins."""

    def __init__(self, encoder: UpsampleConformer, mel_bins: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder_proj: nn.Module = nn.Linear(encoder.shape.width, mel_bins)
        self.shape = encoder.shape

    def prepare(self, dtype: torch.dtype, device: torch.device | str) -> None:
        """Cast and move the projection."""
        self.encoder_proj = dense_of(cast(nn.Linear, self.encoder_proj), dtype=dtype, device=device)

    def forward(self, embedded: Tensor, valid: Tensor | None, contexts: BodyContexts) -> Tensor:
        """embedded: [B, T + L, in] -> mu [B, rT, 80] float32."""
        return cast(Tensor, self.encoder_proj(self.encoder(embedded, valid, contexts)).float())
