"""What the flow keeps of finished frames, so that it need not compute them again (spec: token2wav, sections 4 and 5).

Under the chunk mask, frames of complete chunks never change. Later frames need of them: keys and values of every
attention layer, and the last few inputs of every convolution, of the same Euler step and guidance row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from light_tts.models.nets.flow_net import FlowNet
from light_tts.types import FRAMES_PER_TOKEN

GUIDANCE_ROWS = 2  # every frame is estimated with and without its condition
_TAIL_BYTES = 4  # tails are float32 at most


class KeptStates(Protocol):
    """States of the whole flow over whole chunks, `num_tokens` of them. Never changed once filled."""

    @property
    def num_tokens(self) -> int:
        """Tokens they cover."""

    @property
    def num_bytes(self) -> int:
        """What they count against a budget."""


@dataclass(frozen=True, eq=False)
class LevelStates:
    """States of one network over a run of steps.

    keys_values:  [evaluations, layers, rows, steps, 2W], keys before values.
    tails:        per evaluation: index of a convolution -> its last inputs, [rows, left, C].
    """

    keys_values: Tensor
    tails: list[dict[int, Tensor]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class FlowStates:
    """KeptStates as tensors of their own, of any length."""

    num_tokens: int
    tokens: LevelStates
    frames: LevelStates
    estimator: LevelStates
    num_bytes: int


class Save(NamedTuple):
    """Steps `begin` to `end` of the new steps of a row are to be kept in `states`."""

    states: LevelStates
    begin: int
    end: int


def states_bytes(net: FlowNet, num_tokens: int, steps: int) -> int:
    """Bytes of FlowStates over that many tokens, tails included; an upper bound by less than the tails."""
    frames = FRAMES_PER_TOKEN * num_tokens
    body, estimator = net.body.shape, net.estimator
    values = 2 * body.width * (body.token_layers * num_tokens + body.frame_layers * frames)
    values += steps * GUIDANCE_ROWS * estimator.num_attention_layers * 2 * estimator.attention_width * frames
    tails = sum(tail.num_values for tail in (*body.token_tails, *body.frame_tails))
    tails += steps * GUIDANCE_ROWS * sum(tail.num_values for tail in net.estimator_tails)
    return values * net.dtype.itemsize + tails * _TAIL_BYTES


def allocate_states(net: FlowNet, num_tokens: int, steps: int) -> FlowStates:
    """Empty states, to be filled by one run of the flow."""

    def level(evaluations: int, layers: int, rows: int, length: int, width: int) -> LevelStates:
        shape = (evaluations, layers, rows, length, 2 * width)
        values = torch.empty(shape, dtype=net.dtype, device=net.device)
        return LevelStates(values, [{} for _ in range(evaluations)])

    frames = FRAMES_PER_TOKEN * num_tokens
    body, estimator = net.body.shape, net.estimator
    return FlowStates(
        num_tokens=num_tokens,
        tokens=level(1, body.token_layers, 1, num_tokens, body.width),
        frames=level(1, body.frame_layers, 1, frames, body.width),
        estimator=level(steps, estimator.num_attention_layers, GUIDANCE_ROWS, frames, estimator.attention_width),
        num_bytes=states_bytes(net, num_tokens, steps),
    )
