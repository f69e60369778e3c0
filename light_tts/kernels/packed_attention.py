"""Attention of packed rows over a paged KV cache: runs of rows of many sequences, prompts and decoding rows alike.

The plain version, and what both versions agree on. `packed_attention_triton.py` computes the same in two kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from light_tts.kernels.kv_slots import from_slots, to_slots
from light_tts.kernels.paged_decode import rotated

TILE_ROWS = 8  # of one sequence that are attended together


class PackedPages(NamedTuple):
    """Where packed rows find their past and leave themselves. N rows are cut into M tiles.

    slots:        [N] int64, where each row's key and value are stored.
    tiles:        [M, 4] int64, of each: line of the table; first packed row; rows, 0 to TILE_ROWS, neighbours in the
                  packed batch and in their sequence; place of the first in its sequence.
    table:        int64, pages of the sequence of line 0, then of line 1, ...
    table_width:  [1] int64, pages of each line; on the device, so that a recorded step can change it.
    """

    slots: Tensor
    tiles: Tensor
    table: Tensor
    table_width: Tensor


def packed_attention_plain(
    query: Tensor, key_value: Tensor, rotation: Tensor, cache: Tensor, pages: PackedPages, block_tokens: int
) -> Tensor:
    """Rotate queries and keys, store all rows' keys and values, and attend from each row to its past and itself.

    query:      [N, num_heads, head_dim], rotary pairs as neighbours; its memory may be used.
    key_value:  [N, 2 * num_kv_heads, head_dim], keys like the queries, and then values.
    rotation:   [N, head_dim / 2, 2] float32, cosine and sine of each pair's angle.
    cache:      slots of one layer, see `kv_slots.py`.

    Returns [N, num_heads * head_dim]; rows in no tile hold anything. Reads the tiles on the host.
    """
    num_rows, num_heads, head_dim = query.shape
    kv_heads = key_value.shape[1] // 2
    keys, values = key_value.chunk(2, dim=1)
    query = rotated(query, rotation)
    cache.index_copy_(0, pages.slots, to_slots(torch.cat([rotated(keys, rotation), values], dim=1), cache.dtype))
    out = torch.zeros(num_rows, num_heads * head_dim, dtype=query.dtype, device=query.device)
    width = int(pages.table_width)
    for line, first, count, place in pages.tiles.tolist():
        if not count:
            continue
        tokens = torch.arange(place + count, device=query.device)
        slots = pages.table[line * width + tokens // block_tokens] * block_tokens + tokens % block_tokens
        seen = from_slots(cache[slots], 2 * kv_heads, head_dim, query.dtype).transpose(0, 1)
        visible = tokens <= place + torch.arange(count, device=query.device)[:, None]
        grouped = query[first : first + count].view(count, kv_heads, -1, head_dim).permute(1, 2, 0, 3)
        attended = F.scaled_dot_product_attention(
            grouped, seen[:kv_heads, None], seen[kv_heads:, None], attn_mask=visible[None, None]
        )
        out[first : first + count] = attended.permute(2, 0, 1, 3).flatten(1)
    return out
