"""The conformer in about 80 kernels, with any past: distances are scored where attention needs them.

The plain version: `conformer.py`.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor

from light_tts.kernels.flow_attention import RelativePositions
from light_tts.kernels.flow_kernels import FlowKernels, Norm
from light_tts.models.nets.conformer import ConformerBlock, ConformerBody, RelativeAttention, distance_vectors
from light_tts.models.nets.context import SequenceContext
from light_tts.models.nets.fused import PagedSteps, biased_product, norm_of

_REACH = 4096  # distances that have a row in the tables: 82 s of frames


class _Block(NamedTuple):
    layer: int
    heads: int
    norm1: Norm
    qkv: tuple[Tensor, Tensor]
    positions: RelativePositions
    out: tuple[Tensor, Tensor]
    norm2: Norm
    hidden: tuple[Tensor, Tensor]
    last: tuple[Tensor, Tensor]


class FusedConformer:
    """FusedBody of a prepared conformer. The residual stream is float32."""

    def __init__(self, body: ConformerBody, kernels: FlowKernels, reach: int = _REACH) -> None:
        self.reach = reach
        self._kernels, self._encoder = kernels, body.encoder
        self._before = [_block(cast(ConformerBlock, block), reach) for block in body.encoder.encoders]
        self._after = [_block(cast(ConformerBlock, block), reach) for block in body.encoder.up_encoders]
        self._last_norm, self._project = norm_of(body.encoder.after_norm), biased_product(body.encoder_proj)

    def __call__(self, embedded: Tensor, valid: Tensor | None, tokens: PagedSteps, frames: PagedSteps) -> Tensor:
        """See FusedBody."""
        encoder = self._encoder
        x = encoder.embed(embedded)
        if valid is not None:
            x = x * valid
        x = encoder.pre_lookahead_layer(x, cast(SequenceContext, tokens))
        for block in self._before:
            x = self._transform(block, x, tokens)
        x = encoder.up_embed(encoder.up_layer(x, cast(SequenceContext, frames)))
        for block in self._after:
            x = self._transform(block, x, frames)
        mu = self._kernels.norm_linear(x.flatten(0, 1), self._last_norm, *self._project)
        return mu.view(*x.shape[:2], -1).float()

    def _transform(self, block: _Block, x: Tensor, context: PagedSteps) -> Tensor:
        kernels, shape = self._kernels, x.shape
        x = x.flatten(0, 1)
        qkv = kernels.norm_linear(x, block.norm1, *block.qkv).view(*shape[:2], -1)
        attended = context.attend(block.layer, qkv, block.heads, positions=block.positions)
        x = kernels.linear_residual(attended.flatten(0, 1), *block.out, x)
        hidden = kernels.norm_linear(x, block.norm2, *block.hidden, "silu")
        return kernels.linear_residual(hidden, *block.last, x).view(shape)


def _block(block: ConformerBlock, reach: int) -> _Block:
    attention = block.self_attn
    return _Block(
        layer=attention.layer,
        heads=attention.heads,
        norm1=norm_of(block.norm_mha),
        qkv=biased_product(attention.qkv),
        positions=_positions(attention, reach),
        out=biased_product(attention.linear_out),
        norm2=norm_of(block.norm_ff),
        hidden=biased_product(block.feed_forward.w_1),
        last=biased_product(block.feed_forward.w_2),
    )


@torch.no_grad()
def _positions(attention: RelativeAttention, reach: int) -> RelativePositions:
    heads, head_dim = attention.heads, attention.width // attention.heads
    vectors = distance_vectors(torch.arange(1 - reach, reach), attention.width)
    projected = attention.linear_pos(vectors.to(attention.device)) / math.sqrt(head_dim)
    table = projected.view(-1, heads, head_dim).transpose(0, 1).to(attention.dtype).contiguous()
    return RelativePositions(table, attention.shift[:, 0].contiguous())
