"""Flash attention (Dao et al. 2022, arXiv:2205.14135) of packed rows over pages, grouped queries side by side.

Plain version: `packed_attention.py`. Importing this needs Triton. Shapes follow from the number of rows and tiles
alone, and all lengths are read on the device: a recorded CUDA graph serves any mix of sequences.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.kv_slots import SCALE_BYTES
from light_tts.kernels.kv_slots_triton import round_pairs, scales_of
from light_tts.kernels.launch_sizes import ceil_div, power_of_2
from light_tts.kernels.packed_attention import TILE_ROWS, PackedPages

_TILE_TOKENS = 64
_LEAST_DOT_ROWS = 16  # of a matrix product on tensor cores


@triton.jit  # type: ignore[untyped-decorator]
def _rotate_and_store_kernel(
    query: tl.tensor,
    key_value: tl.tensor,
    rotation: tl.tensor,
    cache: tl.tensor,
    slot_of: tl.tensor,
    query_stride: tl.tensor,
    key_value_stride: tl.tensor,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SCALE_BYTES: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
) -> None:
    """One row and one block of heads: queries are turned where they lie, keys and values go to their slot."""
    row = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    pairs = tl.arange(0, HEAD_DIM // 2)
    turn = rotation + row * HEAD_DIM + pairs * 2
    cosine = tl.load(turn)[None, :]
    sine = tl.load(turn + 1)[None, :]

    is_query = heads[:, None] < HEADS
    places = heads[:, None] * HEAD_DIM + pairs[None, :] * 2
    source = query + row * query_stride + places
    even = tl.load(source, mask=is_query, other=0.0).to(tl.float32)
    odd = tl.load(source + 1, mask=is_query, other=0.0).to(tl.float32)
    tl.store(source, (even * cosine - odd * sine).to(query.dtype.element_ty), mask=is_query)
    tl.store(source + 1, (odd * cosine + even * sine).to(query.dtype.element_ty), mask=is_query)

    stored = heads - HEADS
    is_stored = (stored[:, None] >= 0) & (stored[:, None] < 2 * KV_HEADS)
    is_key = stored[:, None] < KV_HEADS
    places = stored[:, None] * HEAD_DIM + pairs[None, :] * 2
    source = key_value + row * key_value_stride + places
    even = tl.load(source, mask=is_stored, other=0.0).to(tl.float32)
    odd = tl.load(source + 1, mask=is_stored, other=0.0).to(tl.float32)
    slot = cache + tl.load(slot_of + row) * (2 * KV_HEADS * (HEAD_DIM + SCALE_BYTES))
    first = tl.where(is_key, even * cosine - odd * sine, even).to(key_value.dtype.element_ty)
    second = tl.where(is_key, odd * cosine + even * sine, odd).to(key_value.dtype.element_ty)
    if SCALE_BYTES:
        first, second = round_pairs(first, second, slot, stored, 2 * KV_HEADS, HEAD_DIM)
    tl.store(slot + places, first, mask=is_stored)
    tl.store(slot + places + 1, second, mask=is_stored)


@triton.jit  # type: ignore[untyped-decorator]
def _attend_kernel(
    query: tl.tensor,
    cache: tl.tensor,
    tiles: tl.tensor,
    table: tl.tensor,
    table_width: tl.tensor,
    out: tl.tensor,
    scale_log2: tl.tensor,
    query_stride: tl.tensor,
    BLOCK_TOKENS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SCALE_BYTES: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """One tile of rows and one key-value head; the queries that share the head stand where more rows would."""
    tile = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    line = tl.load(tiles + tile * 4)
    first = tl.load(tiles + tile * 4 + 1)
    count = tl.load(tiles + tile * 4 + 2)
    place = tl.load(tiles + tile * 4 + 3)
    width = tl.load(table_width)
    slot_width: tl.constexpr = 2 * KV_HEADS * (HEAD_DIM + SCALE_BYTES)

    lanes = tl.arange(0, ROWS * GROUP_ROWS)
    row, member = lanes // GROUP_ROWS, lanes % GROUP_ROWS
    is_asked = ((row < count) & (member < GROUP))[:, None]
    dims = tl.arange(0, HEAD_DIM)
    head_places = (head * GROUP + member)[:, None] * HEAD_DIM + dims[None, :]
    queries = tl.load(query + (first + row)[:, None] * query_stride + head_places, mask=is_asked, other=0.0)

    top = tl.full([ROWS * GROUP_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS * GROUP_ROWS], tl.float32)
    sums = tl.zeros([ROWS * GROUP_ROWS, HEAD_DIM], tl.float32)
    end = tl.where(count > 0, place + count, 0)
    for begin in range(0, end, TILE):
        tokens = begin + tl.arange(0, TILE)
        is_held = tokens < end
        page = tl.load(table + line * width + tokens // BLOCK_TOKENS, mask=is_held, other=0)
        slots = page * BLOCK_TOKENS + tokens % BLOCK_TOKENS
        source = cache + slots[:, None] * slot_width + head * HEAD_DIM + dims[None, :]
        keys = tl.load(source, mask=is_held[:, None], other=0.0).to(queries.dtype)
        values = tl.load(source + KV_HEADS * HEAD_DIM, mask=is_held[:, None], other=0.0).to(queries.dtype)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale_log2
        if SCALE_BYTES:
            scores *= scales_of(cache + slots * slot_width, is_held, head, 2 * KV_HEADS, HEAD_DIM)[None, :]
        scores = tl.where(tokens[None, :] <= (place + row)[:, None], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, axis=1)
        if SCALE_BYTES:
            weights *= scales_of(cache + slots * slot_width, is_held, KV_HEADS + head, 2 * KV_HEADS, HEAD_DIM)[None, :]
        sums = sums * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        top = new_top
    target = out + (first + row)[:, None] * (KV_HEADS * GROUP * HEAD_DIM) + head_places
    # A tile without rows has summed nothing.
    tl.store(target, (sums / tl.maximum(total, 1e-30)[:, None]).to(out.dtype.element_ty), mask=is_asked)


def packed_attention(
    query: Tensor, key_value: Tensor, rotation: Tensor, cache: Tensor, pages: PackedPages, block_tokens: int
) -> Tensor:
    """See `packed_attention_plain`; reads nothing on the host, and nothing that a row does not see.

    Heads of `query` and of `key_value` must lie side by side within a row; head_dim must be a power of 2, 16 or more.
    """
    num_rows, num_heads, head_dim = query.shape
    kv_heads = key_value.shape[1] // 2
    group = num_heads // kv_heads
    group_rows = max(_LEAST_DOT_ROWS // TILE_ROWS, power_of_2(group))
    block_heads, scale_bytes = 4, SCALE_BYTES if cache.dtype == torch.int8 else 0
    _rotate_and_store_kernel[(num_rows, ceil_div(num_heads + 2 * kv_heads, block_heads))](
        query, key_value, rotation, cache, pages.slots, query.stride(0), key_value.stride(0),
        HEADS=num_heads, KV_HEADS=kv_heads, HEAD_DIM=head_dim, SCALE_BYTES=scale_bytes,
        BLOCK_HEADS=block_heads, num_warps=2,
    )  # fmt: skip
    out = torch.empty(num_rows, num_heads * head_dim, dtype=query.dtype, device=query.device)
    _attend_kernel[(len(pages.tiles), kv_heads)](
        query, cache, pages.tiles, pages.table, pages.table_width, out, head_dim**-0.5 * 1.4426950408889634,
        query.stride(0),
        BLOCK_TOKENS=block_tokens, KV_HEADS=kv_heads, GROUP=group, GROUP_ROWS=group_rows, HEAD_DIM=head_dim,
        SCALE_BYTES=scale_bytes, ROWS=TILE_ROWS, TILE=_TILE_TOKENS, num_warps=4,
    )  # fmt: skip
    return out
