"""The DiT in about 160 kernels per evaluation. The plain version: `dit.py`."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from light_tts.kernels.flow_conv import ConvExtras, ConvWeights
from light_tts.kernels.flow_kernels import FlowKernels
from light_tts.models.nets.dit import MODULATIONS, NORM_EPS, DiT, DiTBlock
from light_tts.models.nets.fused import PagedSteps, biased_product


class _Block(NamedTuple):
    """A transformer block; `first` is the index of its modulations in the time table."""

    first: int
    layer: int
    heads: int
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    hidden: tuple[Tensor, Tensor]
    last: tuple[Tensor, Tensor]


class FusedDiT:
    """FusedEstimator of a prepared DiT. The residual stream is float32."""

    def __init__(self, dit: DiT, kernels: FlowKernels) -> None:
        self._kernels = kernels
        self._rotary = dit.rotary_embed
        embed = dit.input_embed
        self._project_in = biased_product(embed.proj)
        convs = (embed.conv_pos_embed.conv1[0], embed.conv_pos_embed.conv2[0])
        self._convs = [_grouped_conv(cast(nn.Conv1d, conv)) for conv in convs]
        self._blocks = [_block(cast(DiTBlock, block)) for block in dit.transformer_blocks]
        self._project_out = biased_product(dit.proj_out)
        self._dtype = self._project_out[0].dtype

    def prepare(self, context: PagedSteps) -> Tensor:
        """See FusedEstimator: cosines and sines of all places."""
        return torch.stack(self._rotary(context.places()))

    def __call__(self, inputs: Tensor, time: Tensor, context: PagedSteps, prepared: Tensor | None) -> Tensor:
        """See FusedEstimator."""
        kernels, shape = self._kernels, inputs.shape
        h = kernels.linear_residual(inputs.flatten(0, 1), *self._project_in, None).view(*shape[:2], -1)
        rounded = h.to(self._dtype)  # as the convolution would: it reads each frame as often as it has taps
        y = kernels.conv(rounded, self._convs[0], context.tails(0), ConvExtras(mish=True), self._dtype)
        h = kernels.conv(y, self._convs[1], context.tails(1), ConvExtras(True, residual=h), torch.float32)
        h = h.flatten(0, 1)
        update: Tensor | None = None
        gate = time[0]  # of an update that is not there yet
        for block in self._blocks:
            shift1, scale1, gate1, shift2, scale2, gate2 = time[block.first : block.first + MODULATIONS].unbind()
            h, y = kernels.gated_norm(h, update, gate, scale1, shift1, NORM_EPS, self._dtype)
            qkv = F.linear(y, *block.qkv).view(*shape[:2], -1)
            attended = context.attend(block.layer, qkv, block.heads, rotation=prepared)
            update = F.linear(attended.flatten(0, 1), *block.out)
            h, y = kernels.gated_norm(h, update, gate1, scale2, shift2, NORM_EPS, self._dtype)
            update = F.linear(kernels.linear_gelu(y, *block.hidden), *block.last)
            gate = gate2
        _, y = kernels.gated_norm(h, update, gate, time[-2], time[-1], NORM_EPS, self._dtype)
        return kernels.linear_residual(y, *self._project_out, None).view(*shape[:2], -1)


def _grouped_conv(conv: nn.Conv1d) -> ConvWeights:
    assert conv.bias is not None
    matrix = conv.weight.permute(0, 2, 1).flatten(1).contiguous()
    return ConvWeights(matrix, conv.bias, conv.kernel_size[0], conv.groups)


def _block(block: DiTBlock) -> _Block:
    hidden = block.ff.ff
    return _Block(
        first=block.first,
        layer=block.attn.layer,
        heads=block.attn.heads,
        qkv=biased_product(block.attn.qkv),
        out=biased_product(block.attn.to_out[0]),
        hidden=biased_product(hidden[0]),
        last=biased_product(hidden[2]),
    )
