"""The UNet in about 310 kernels per evaluation, 245 where rows are few. The plain version: `unet.py`."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from light_tts.kernels.flow_conv import ConvExtras, ConvWeights
from light_tts.kernels.flow_kernels import FlowKernels, Norm
from light_tts.kernels.flow_stream import Stream
from light_tts.models.nets.dense import CausalConv
from light_tts.models.nets.fused import PagedSteps, biased_product, conv_of, norm_of, product
from light_tts.models.nets.unet import ConvBlock, Resnet, TransformerBlock, UNet


class _Block(NamedTuple):
    """A transformer block."""

    layer: int
    heads: int
    norm1: Norm
    qkv: tuple[Tensor, Tensor | None]
    out: tuple[Tensor, Tensor]
    norm3: Norm
    hidden: tuple[Tensor, Tensor]
    last: tuple[Tensor, Tensor]


class _Conv(NamedTuple):
    """A causal convolution and its number among those of the network."""

    weights: ConvWeights
    tail: int


class _Stage(NamedTuple):
    """A resnet, its transformer blocks, and the convolution after them, where there is one."""

    time_index: int
    conv1: _Conv
    conv2: _Conv
    shortcut: tuple[Tensor, Tensor]
    blocks: list[_Block]
    after: _Conv | None


class FusedUNet:
    """FusedEstimator of a prepared UNet. The residual stream is float32."""

    def __init__(self, unet: UNet, kernels: FlowKernels) -> None:
        self._kernels = kernels
        stages = [*unet.down_blocks, *unet.mid_blocks, *unet.up_blocks]
        self._stages = [_stage(cast(nn.ModuleList, stage)) for stage in stages]
        self._final = _conv_block(unet.final_block)
        self._project = biased_product(unet.final_proj.taps)
        self._dtype = self._project[0].dtype

    def prepare(self, context: PagedSteps) -> None:
        """See FusedEstimator; the network has no positions."""

    def __call__(self, inputs: Tensor, time: Tensor, context: PagedSteps, prepared: Tensor | None = None) -> Tensor:
        """See FusedEstimator."""
        down, *mid, up = self._stages
        h, skip = self._run(down, inputs, time, context)
        for stage in mid:
            h, _ = self._run(stage, h, time, context)
        h, _ = self._run(up, torch.cat([h, skip], dim=-1), time, context)
        h = self._convolve(self._final, h, context, ConvExtras(mish=True), self._dtype)
        velocity = self._kernels.linear_residual(h.flatten(0, 1), *self._project, None)
        return velocity.view(*h.shape[:2], -1)

    def _run(self, stage: _Stage, x: Tensor, time: Tensor, context: PagedSteps) -> tuple[Tensor, Tensor]:
        """Output of a stage, and what it was before the convolution at its end."""
        y = self._convolve(stage.conv1, x, context, ConvExtras(True, added=time[stage.time_index]), self._dtype)
        extras = ConvExtras(True, shortcut=(x, *stage.shortcut))
        h = self._convolve(stage.conv2, y, context, extras, torch.float32)
        if stage.blocks and self._is_few(stage.blocks[0], h):
            h = self._transform_few(stage.blocks, h, context)
        else:
            for block in stage.blocks:
                h = self._transform(block, h, context)
        if stage.after is None:
            return h, h
        return self._convolve(stage.after, h, context, ConvExtras(), torch.float32), h

    def _convolve(self, conv: _Conv, x: Tensor, context: PagedSteps, extras: ConvExtras, dtype: torch.dtype) -> Tensor:
        return self._kernels.conv(x, conv.weights, context.tails(conv.tail), extras, dtype)

    def _transform(self, block: _Block, h: Tensor, context: PagedSteps) -> Tensor:
        kernels, shape = self._kernels, h.shape
        h = h.flatten(0, 1)
        qkv = kernels.norm_linear(h, block.norm1, *block.qkv)
        attended = context.attend(block.layer, qkv.view(*shape[:2], -1), block.heads)
        h = kernels.linear_residual(attended.flatten(0, 1), *block.out, h)
        hidden = kernels.norm_linear(h, block.norm3, *block.hidden, "gelu")
        return kernels.linear_residual(hidden, *block.last, h).view(shape)

    def _is_few(self, block: _Block, h: Tensor) -> bool:
        rows, steps, _ = h.shape
        return self._kernels.stream.takes(rows, steps, block.heads, block.hidden[0])

    def _transform_few(self, blocks: list[_Block], h: Tensor, context: PagedSteps) -> Tensor:
        """All blocks of a stage, each in three kernels: the residual stream stays in parts until the last one's end."""
        kernels, shape = self._kernels.stream, h.shape
        stream = Stream(h.flatten(0, 1))
        for block in blocks:
            qkv, stream = kernels.norm_linear(stream, block.norm1, *block.qkv)
            matrix, bias = block.out
            parts = context.attend_in_parts(block.layer, qkv.view(*shape[:2], -1), block.heads, matrix)
            stream = Stream(stream.rows, parts, bias)
            if block is not blocks[-1]:
                stream = kernels.feed_forward(stream, block.norm3, block.hidden, block.last)
        hidden, stream = kernels.norm_linear(stream, blocks[-1].norm3, *blocks[-1].hidden, "gelu")
        return self._kernels.linear_residual(hidden, *blocks[-1].last, stream.rows).view(shape)


def _stage(stage: nn.ModuleList) -> _Stage:
    resnet = cast(Resnet, stage[0])
    return _Stage(
        time_index=resnet.index,
        conv1=_conv_block(resnet.block1),
        conv2=_conv_block(resnet.block2),
        shortcut=biased_product(resnet.res_conv.taps),
        blocks=[_block(cast(TransformerBlock, block)) for block in cast(nn.ModuleList, stage[1])],
        after=_conv(stage[2]) if len(stage) > 2 else None,
    )


def _conv_block(block: ConvBlock) -> _Conv:
    return _conv(block.block[0], block.block[2])


def _conv(module: nn.Module, norm: nn.Module | None = None) -> _Conv:
    return _Conv(conv_of(module, norm), cast(CausalConv, module).tail)


def _block(block: TransformerBlock) -> _Block:
    return _Block(
        layer=block.attn1.layer,
        heads=block.attn1.heads,
        norm1=norm_of(block.norm1),
        qkv=product(block.attn1.qkv),
        out=biased_product(block.attn1.to_out[0]),
        norm3=norm_of(block.norm3),
        hidden=biased_product(block.ff.net[0]),
        last=biased_product(block.ff.net[2]),
    )
