"""Decoding attention over a paged KV cache: one new row of each sequence against everything cached before it.

The plain version, and what both versions agree on. `paged_decode_triton.py` computes the same in one or two kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from light_tts.kernels.kv_slots import from_slots, to_slots


class DecodePages(NamedTuple):
    """Where the rows of a decoding step find their past and leave themselves. B is the number of rows.

    past:         [B] int64, tokens cached before the row; 0: it sees itself alone.
    slots:        [B] int64, where its own key and value are stored.
    table:        int64, pages of the first row, then of the second, ...; holds at least B * table_width numbers.
    table_width:  [1] int64, pages of each row in `table`; on the device, so that a recorded step can change it.
    """

    past: Tensor
    slots: Tensor
    table: Tensor
    table_width: Tensor


def decode_attention_plain(
    query: Tensor, key_value: Tensor, rotation: Tensor, cache: Tensor, pages: DecodePages, block_tokens: int
) -> Tensor:
    """Rotate queries and keys, store the rows' keys and values, and attend from each row to its past and itself.

    query:      [B, num_heads, head_dim], rotary pairs as neighbours.
    key_value:  [B, 2 * num_kv_heads, head_dim], keys like the queries, and then values.
    rotation:   [B, head_dim / 2, 2] float32, cosine and sine of each pair's angle.
    cache:      slots of one layer, see `kv_slots.py`; what a row does not see must be finite.

    Returns [B, num_heads * head_dim]. Reads the table's width on the host.
    """
    num_rows, twice_kv_heads, head_dim = key_value.shape
    keys, values = key_value.chunk(2, dim=1)
    query, key_value = rotated(query, rotation), torch.cat([rotated(keys, rotation), values], dim=1)
    own = to_slots(key_value, cache.dtype)
    cache.index_copy_(0, pages.slots, own)
    width = int(pages.table_width)
    table = pages.table[: num_rows * width].view(num_rows, width)
    slots = (table[:, :, None] * block_tokens + torch.arange(block_tokens, device=table.device)).flatten(1)
    seen = torch.cat([cache[slots].view(num_rows, -1, cache.shape[1]), own[:, None]], dim=1)
    keys, values = from_slots(seen, twice_kv_heads, head_dim, query.dtype).transpose(1, 2).chunk(2, dim=1)
    visible = torch.arange(slots.shape[1] + 1, device=table.device) < pages.past[:, None]
    visible[:, -1] = True
    grouped = query.view(num_rows, twice_kv_heads // 2, -1, head_dim)
    return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=visible[:, None, None]).flatten(1)


def rotated(heads: Tensor, rotation: Tensor) -> Tensor:
    """Rotary position embedding of [N, H, D], pairs as neighbours, by the [N, D / 2, 2] cosines and sines."""
    even, odd = heads.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = rotation[:, None].unbind(-1)
    rotated = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1)
    return rotated.flatten(-2).to(heads.dtype)
