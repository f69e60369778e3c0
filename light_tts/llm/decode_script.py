"""A step in which every sequence decodes one row, as a TorchScript graph (`models/nets/script.py`).

On a CPU a fifth of such a step is Python, and other threads need the interpreter meanwhile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from light_tts.llm.paged_attention import DecodeRows, PagedKVCache
from light_tts.models.nets import script
from light_tts.models.nets.matrix import PlainMatrix
from light_tts.models.nets.script import ScriptGraph
from light_tts.models.nets.speech_lm import SpeechLM


def can_script(lm: SpeechLM, cache: PagedKVCache) -> bool:
    """True where there is such a graph: for matrices, keys and values that are kept as they are."""
    is_plain = all(isinstance(part, PlainMatrix) for layer in lm.body.layers for part in layer.children())
    return script.can_script(lm.device) and is_plain and cache.dtype != torch.int8


class ScriptedDecode:
    """Decoding rows to hidden states; the graph is made by the first call. Used by one thread."""

    def __init__(self, lm: SpeechLM, cache: PagedKVCache) -> None:
        self._lm, self._cache = lm, cache
        self._graph = ScriptGraph(self._compute, self._example)

    def hidden(self, rows: Tensor, positions: Tensor, slots: Tensor, decode: DecodeRows) -> Tensor:
        """See `SpeechLM.hidden`; all rows are those of `decode`, and all states are returned."""
        visible = torch.empty(0, dtype=torch.bool) if decode.visible is None else decode.visible
        found: Tensor = self._graph(rows, positions, slots, decode.blocks, visible, torch.tensor(decode.length))
        return found

    def _example(self, *_: Tensor) -> tuple[Any, ...]:
        """Two rows that leave nothing in the pages of sequences."""
        count = 2
        return (
            torch.zeros(count, dtype=torch.int64),
            torch.zeros(count, dtype=torch.int64),
            torch.full((count,), self._cache.dump_slot),
            torch.full((count,), self._cache.zero_page),
            torch.empty(0, dtype=torch.bool),
            torch.tensor(1),
        )

    def _compute(
        self, rows: Tensor, positions: Tensor, slots: Tensor, blocks: Tensor, visible: Tensor, length: Tensor
    ) -> Tensor:
        context = _GraphAttention(self._cache, slots, blocks, visible, length)
        return self._lm.hidden(rows, positions, context)


class _GraphAttention:
    """The `AttentionContext` of such a step, while its graph is made."""

    def __init__(self, cache: PagedKVCache, slots: Tensor, blocks: Tensor, visible: Tensor, length: Tensor) -> None:
        self._cache = cache
        self._step = slots, blocks, visible, length

    def attend(self, layer: int, query: Tensor, key_value: Tensor) -> Tensor:
        """See `AttentionContext.attend`."""
        slots, pages = self._cache.slots_of(layer), self._cache.pages_of(layer)
        return _attend_script()(query, key_value, slots, pages, *self._step)


def _attend(
    query: Tensor,
    key_value: Tensor,
    all_slots: Tensor,
    all_pages: Tensor,
    slots: Tensor,
    blocks: Tensor,
    visible: Tensor,
    length: Tensor,
) -> Tensor:
    """What `PagedAttention` does with decoding rows. query: [N, heads, head_dim]. Returns [N, heads * head_dim]."""
    num_heads, head_dim = key_value.shape[1], key_value.shape[2]
    all_slots.index_copy_(0, slots, key_value.flatten(1))
    count = query.shape[0]
    read = all_pages.index_select(0, blocks).view(count, -1, num_heads, head_dim).transpose(1, 2)
    keys, values = read[:, : num_heads // 2], read[:, num_heads // 2 :]
    grouped = query.view(count, num_heads // 2, -1, head_dim)
    if visible.numel() > 0:
        return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=visible).flatten(1)
    seen = int(length)
    return F.scaled_dot_product_attention(grouped, keys[:, :, :seen], values[:, :, :seen]).flatten(1)


@functools.cache
def _attend_script() -> Callable[..., Tensor]:
    return cast(Callable[..., Tensor], torch.jit.script(_attend))
