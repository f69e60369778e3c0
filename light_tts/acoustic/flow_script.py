"""The estimator of the flow as a TorchScript graph (`models/nets/script.py`), with what is kept between calls.

From Python, an evaluation takes a quarter longer beside the language model's thread than by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from light_tts.acoustic.flow_context import KeptContext, Surroundings
from light_tts.acoustic.flow_states import GUIDANCE_ROWS
from light_tts.models.nets.context import SequenceContext, attention
from light_tts.models.nets.flow_net import Estimator, FlowNet
from light_tts.models.nets.script import ScriptGraph, can_script

_scripted: WeakKeyDictionary[FlowNet, ScriptedEstimator] = WeakKeyDictionary()  # one graph, however many decoders


def scripted(net: FlowNet) -> Estimator:
    """The estimator of a net, as a graph where there is one; it is made by the first call."""
    return _scripted.setdefault(net, ScriptedEstimator(net)) if can_script(net.device) else net.estimator


class ScriptedEstimator:
    """Estimator that runs the graph of another one. Any thread."""

    def __init__(self, net: FlowNet) -> None:
        self._estimator, self._tails, self._dtype = net.estimator, net.estimator_tails, net.dtype
        self.num_attention_layers = net.estimator.num_attention_layers
        self.attention_heads = net.estimator.attention_heads
        self.attention_width = net.estimator.attention_width
        self.condition_time = net.estimator.condition_time
        self.static_inputs = net.estimator.static_inputs
        self._graph = ScriptGraph(self._evaluate, self._example)

    def __call__(self, x: Tensor, static: Tensor, time: Tensor, context: SequenceContext) -> Tensor:
        """See Estimator; contexts of other kinds than KeptContext are served without the graph."""
        if not isinstance(context, KeptContext):
            return self._estimator(x, static, time, context)
        velocity, *extended = self._graph(x, static, time, *context.surroundings(self._tails))
        for tail, inputs in enumerate(extended):
            context.keep_tail(tail, inputs)
        return context.clear_padding(velocity)

    def _example(self, x: Tensor, static: Tensor, time: Tensor, *_: Tensor | tuple[Tensor, ...]) -> tuple[Any, ...]:
        frames = 2
        shape = self.num_attention_layers, GUIDANCE_ROWS, 2 * frames, 2 * self.attention_width
        surroundings = Surroundings(
            keys_values=torch.zeros(shape, dtype=self._dtype),
            mask=torch.empty(0),
            chunk=torch.tensor(0),
            positions=torch.arange(frames)[None],
            tails=tuple(torch.zeros(GUIDANCE_ROWS, tail.left, tail.channels) for tail in self._tails),
        )
        return x[:GUIDANCE_ROWS, :frames], static[:GUIDANCE_ROWS, :frames], time, *surroundings

    def _evaluate(
        self,
        x: Tensor,
        static: Tensor,
        time: Tensor,
        keys_values: Tensor,
        mask: Tensor,
        chunk: Tensor,
        positions: Tensor,
        tails: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        context = _GraphContext(Surroundings(keys_values, mask, chunk, positions, tails))
        velocity = self._estimator(x, static, time, context)
        return velocity, *context.extended


class _GraphContext:
    """SequenceContext over Surroundings, while a graph is made."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self.extended: list[Tensor] = []

    @property
    def num_keys(self) -> int:
        """See SequenceContext."""
        return self._surroundings.keys_values.shape[2]

    def attend(self, layer: int, qkv: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
        """See SequenceContext."""
        assert bias is None, "no estimator has relative positions"
        keys_values, mask, chunk = self._surroundings[:3]
        return _attend_script()(qkv, keys_values[layer], heads, mask, chunk)

    def extend(self, tail: int, x: Tensor, left: int) -> Tensor:
        """See SequenceContext."""
        assert tail == len(self.extended), "convolutions are numbered in the order of computation"
        extended = torch.cat([self._surroundings.tails[tail], x], dim=1)
        self.extended.append(extended)
        return extended

    def positions(self) -> Tensor:
        """See SequenceContext."""
        return self._surroundings.positions

    def clear_padding(self, x: Tensor) -> Tensor:
        """Left to the caller, at the end."""
        return x


def _attend(qkv: Tensor, kept: Tensor, heads: int, mask: Tensor, chunk: Tensor) -> Tensor:
    """`attention`, where the new keys and values are written to `kept` [B, S, 2W], if that has any place."""
    keyed = qkv[:, :, qkv.shape[2] // 3 :]
    if kept.numel() > 0:
        kept[:, kept.shape[1] - keyed.shape[1] :] = keyed
        keyed = kept
    return attention(qkv, keyed, heads, mask if mask.numel() > 0 else None, int(chunk))


@functools.cache
def _attend_script() -> Callable[..., Tensor]:
    return cast(Callable[..., Tensor], torch.jit.script(_attend))
