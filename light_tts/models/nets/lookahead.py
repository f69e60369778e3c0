"""The lookahead layer: the only part of the flow that sees tokens to come (spec: flow, sections 4 and 5)."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from light_tts.models.nets.context import SequenceContext
from light_tts.models.nets.dense import CausalConv, Conv, Tail, tails_of


class BodyContexts(NamedTuple):
    """Contexts of a token-to-mel body: before and after each token becomes two frames."""

    tokens: SequenceContext
    frames: SequenceContext


class BodyShape(NamedTuple):
    """What a cache must know of a token-to-mel body.

    token_layers, frame_layers:  attention layers before and after upsampling.
    width:                       channels of keys (and of values).
    token_tails, frame_tails:    of the convolutions before and after upsampling, in their order.
    """

    token_layers: int
    frame_layers: int
    width: int
    token_tails: tuple[Tail, ...]
    frame_tails: tuple[Tail, ...]


class LookaheadLayer(nn.Module):
    """Two convolutions over tokens with a residual: the first sees `lookahead` tokens ahead, the second 2 behind."""

    def __init__(self, channels: int, hidden: int, lookahead: int, kernel: int, tail: int) -> None:
        super().__init__()
        self.lookahead = lookahead
        self.conv1 = Conv(channels, hidden, lookahead + 1, activation="leaky_relu")
        self.conv2 = CausalConv(hidden, channels, kernel, tail)

    def forward(self, x: Tensor, context: SequenceContext) -> Tensor:
        """x: [B, T + lookahead, C], zeros where no token follows -> [B, T, C]."""
        activated = self.conv1(x)
        return cast(Tensor, x[:, : activated.shape[1]] + self.conv2(activated, context))


class LookaheadUpsampler(nn.Module):
    """Token-to-mel body that is a lookahead layer and nothing else (spec: flow, section 5)."""

    def __init__(self, channels: int, hidden: int, lookahead: int, kernel: int, ratio: int) -> None:
        super().__init__()
        self.pre_lookahead_layer = LookaheadLayer(channels, hidden, lookahead, kernel, tail=0)
        self.ratio = ratio
        self.shape = BodyShape(0, 0, 0, token_tails=tails_of(self.pre_lookahead_layer), frame_tails=())

    def forward(self, embedded: Tensor, valid: Tensor | None, contexts: BodyContexts) -> Tensor:
        """embedded: [B, T + L, C]; valid: [B, T + L, 1], zero where no token is -> [B, rT, C] float32."""
        if valid is not None:
            embedded = embedded * valid
        hidden = self.pre_lookahead_layer(embedded, contexts.tokens)
        return torch.repeat_interleave(hidden, self.ratio, dim=1).float()
