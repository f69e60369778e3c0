"""Attention over a paged KV cache for a packed batch: one row of each decoding sequence, then whole chunks of prompts.

Knows nothing of sequences or sampling; `model_runner.py` says which rows and pages belong together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from light_tts.kernels.kv_slots import from_slots, slot_width, to_slots


@dataclass(frozen=True)
class DecodeRows:
    """The first `count` packed rows: one of each of `count` sequences.

    blocks:   [count * num_blocks] int64 pages, `num_blocks` for each sequence, padded with the zero page.
    visible:  [count, 1, 1, L] bool over the L slots of those pages, or None when `length` says it all.
    length:   slots that all rows see, when they see equally many; else L.
    """

    count: int
    num_blocks: int
    blocks: Tensor
    visible: Tensor | None
    length: int


@dataclass(frozen=True)
class PrefillRows:
    """Packed rows `start .. stop`: a run of rows of one sequence, the last of which sits at place `length - 1` of it.

    blocks:   [num_blocks] int64 pages that hold at least `length` slots.
    visible:  [stop - start, length] bool, or None when the run begins the sequence.
    """

    start: int
    stop: int
    length: int
    blocks: Tensor
    visible: Tensor | None


class PagedKVCache:
    """Keys and values of all layers, in pages.

    Of each token and layer the keys of all heads and then the values lie side by side in a slot (`kv_slots.py`), so
    that one copy stores both and one gather reads both. Pages begin as zeros: what masks hide must still be finite.

    Behind the `num_blocks` pages of sequences lie two more: `zero_page` is never written, and stands where a list of
    pages must be filled up; nobody reads `dump_slot`, where rows that only pad a batch leave theirs.

    dtype:     of keys and values outside of the cache.
    is_int8:   keep them in int8.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_blocks: int,
        block_tokens: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        is_int8: bool = False,
    ) -> None:
        self.block_tokens = block_tokens
        self.num_kv_heads, self.head_dim = num_kv_heads, head_dim
        self.dtype = torch.int8 if is_int8 else dtype
        self._dtype_outside = dtype
        width = slot_width(2 * num_kv_heads, head_dim, self.dtype)
        self.zero_page, self.dump_slot = num_blocks, (num_blocks + 1) * block_tokens
        self._by_page = _zeros((num_layers, num_blocks + 2, block_tokens * width), self.dtype, device)
        self._by_slot = self._by_page.view(num_layers, (num_blocks + 2) * block_tokens, width)
        # Indexing by layer in every call would cost as much as the copy itself on a CPU.
        self._pages_of: list[Tensor] = list(self._by_page)
        self._slots_of: list[Tensor] = list(self._by_slot)

    @property
    def device(self) -> torch.device:
        """Where the pages are."""
        return self._by_page.device

    @property
    def num_bytes(self) -> int:
        """Of all pages."""
        return self._by_page.nbytes

    @property
    def num_bytes_saved(self) -> int:
        """Against pages in `dtype`."""
        num_slots = self._by_slot.shape[0] * self._by_slot.shape[1]
        return num_slots * 2 * self.num_kv_heads * self.head_dim * self._dtype_outside.itemsize - self.num_bytes

    def write(self, layer: int, slots: Tensor, key_value: Tensor) -> None:
        """Store [N, 2 * num_kv_heads, head_dim] at the slots [N] int64."""
        self._slots_of[layer].index_copy_(0, slots, to_slots(key_value, self.dtype))

    def slots_of(self, layer: int) -> Tensor:
        """All slots of a layer: [num_slots, slot_width]."""
        return self._slots_of[layer]

    def pages_of(self, layer: int) -> Tensor:
        """All pages of a layer: [num_blocks + 2, block_tokens * slot_width]."""
        return self._pages_of[layer]

    def read(self, layer: int, blocks: Tensor, num_sequences: int) -> tuple[Tensor, Tensor]:
        """Keys and values of `num_sequences` equally long lists of pages: twice [B, num_kv_heads, L, head_dim]."""
        pages = self._pages_of[layer].index_select(0, blocks)
        slots = pages.view(num_sequences, -1, self._by_slot.shape[-1])
        by_head = from_slots(slots, 2 * self.num_kv_heads, self.head_dim, self._dtype_outside).transpose(1, 2)
        return by_head[:, : self.num_kv_heads], by_head[:, self.num_kv_heads :]

    def scrub(self, blocks: list[int]) -> None:
        """Set pages to zero, so that nothing which is not finite outlives its sequence."""
        self._by_page[:, torch.tensor(blocks, dtype=torch.int64, device=self.device)] = 0


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that cost no memory before they are written: torch fills a CPU tensor page by page, numpy maps it."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(dtype).view(shape)


class PagedAttention:
    """The `AttentionContext` of one step.

    slots:  [N] int64, where each packed row's key and value belong.
    """

    def __init__(
        self, cache: PagedKVCache, slots: Tensor, decode: DecodeRows | None, prefills: list[PrefillRows]
    ) -> None:
        self._cache = cache
        self._slots = slots
        self._decode = decode
        self._prefills = prefills

    def attend(self, layer: int, query: Tensor, key_value: Tensor) -> Tensor:
        """See `AttentionContext.attend`."""
        self._cache.write(layer, self._slots, key_value)
        parts = []
        if self._decode is not None:
            parts.append(self._decode_attention(layer, self._decode, query))
        parts += [self._prefill_attention(layer, rows, query[rows.start : rows.stop]) for rows in self._prefills]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _decode_attention(self, layer: int, rows: DecodeRows, query: Tensor) -> Tensor:
        keys, values = self._cache.read(layer, rows.blocks, rows.count)
        if rows.visible is None:
            keys, values = keys[:, :, : rows.length], values[:, :, : rows.length]
        # The query heads that share a key-value head stand where a longer query would: nothing is repeated in memory.
        grouped = query[: rows.count].view(rows.count, self._cache.num_kv_heads, -1, self._cache.head_dim)
        return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=rows.visible).flatten(1)

    def _prefill_attention(self, layer: int, rows: PrefillRows, query: Tensor) -> Tensor:
        keys, values = (half[0, :, None, : rows.length] for half in self._cache.read(layer, rows.blocks, 1))
        by_head = query.view(len(query), self._cache.num_kv_heads, -1, self._cache.head_dim)
        grouped = by_head.permute(1, 2, 0, 3)
        shape = (-1, grouped.shape[1], -1, -1)
        attended = F.scaled_dot_product_attention(
            grouped, keys.expand(shape), values.expand(shape), attn_mask=rows.visible, is_causal=rows.visible is None
        )
        return attended.permute(2, 0, 1, 3).flatten(1)
