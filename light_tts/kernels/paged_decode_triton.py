"""Split-KV flash decoding for grouped queries over pages (Dao et al. 2023, "Flash-Decoding"; Kwon et al. 2023,
arXiv:2309.06180), with rotation and store of the new row inside. Plain version: `paged_decode.py`.

Importing this needs Triton. Every shape is fixed by the number of rows, and all lengths are read on the device: a
recorded CUDA graph serves contexts of any length.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.kv_slots import SCALE_BYTES
from light_tts.kernels.kv_slots_triton import round_and_store, scales_of
from light_tts.kernels.launch_sizes import power_of_2
from light_tts.kernels.paged_decode import DecodePages

# Measured on an H200, 24 layers, pasts of 150 to 600 tokens: with few programs short tiles, else long ones; long ones
# also where a program has its first tile on its way before the queries are there.
_WANTED_PROGRAMS = 512
_MOST_SPLITS, _MOST_SPLITS_AHEAD = 16, 8
_FEW_PROGRAMS, _FEW_TILE_TOKENS, _TILE_TOKENS = 16, 16, 64
_LEAST_DOT_ROWS = 16  # of a matrix product on tensor cores


@triton.jit  # type: ignore[untyped-decorator]
def _past(
    cache: tl.tensor,
    pages: tl.tensor,
    tokens: tl.tensor,
    is_seen: tl.tensor,
    BLOCK_TOKENS: tl.constexpr,
    SLOT_WIDTH: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Slots [N], keys and values [N, D] of a tile of tokens; cache: the first slot, at the head's own place."""
    slots = tl.load(pages + tokens // BLOCK_TOKENS, mask=is_seen, other=0) * BLOCK_TOKENS + tokens % BLOCK_TOKENS
    source = cache + slots[:, None] * SLOT_WIDTH + tl.arange(0, HEAD_DIM)[None, :]
    keys = tl.load(source, mask=is_seen[:, None], other=0.0)
    values = tl.load(source + KV_HEADS * HEAD_DIM, mask=is_seen[:, None], other=0.0)
    return slots, keys, values


@triton.jit  # type: ignore[untyped-decorator]
def _attend_kernel(
    query: tl.tensor,
    key_value: tl.tensor,
    rotation: tl.tensor,
    cache: tl.tensor,
    past_of: tl.tensor,
    slot_of: tl.tensor,
    table: tl.tensor,
    table_width: tl.tensor,
    out: tl.tensor,
    partial_sums: tl.tensor,
    partial_scales: tl.tensor,
    counters: tl.tensor,
    scale_log2: tl.tensor,
    query_stride: tl.tensor,
    key_value_stride: tl.tensor,
    BLOCK_TOKENS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SPLITS: tl.constexpr,
    TILE: tl.constexpr,
    SCALE_BYTES: tl.constexpr,
    JOINS: tl.constexpr,
    AHEAD: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    split = tl.program_id(2)
    past = tl.load(past_of + row)
    width = tl.load(table_width)
    slot_width: tl.constexpr = 2 * KV_HEADS * (HEAD_DIM + SCALE_BYTES)

    members = tl.arange(0, GROUP_ROWS)
    dims = tl.arange(0, HEAD_DIM)
    is_member = members[:, None] < GROUP
    places = (head * GROUP + members)[:, None] * HEAD_DIM + dims[None, :]

    tiles_per_split = tl.cdiv(tl.cdiv(past, TILE), SPLITS)
    start = split * tiles_per_split * TILE
    stop = tl.minimum(past, start + tiles_per_split * TILE)
    pages = table + row * width
    head_cache = cache + head * HEAD_DIM
    if AHEAD:
        # No kernel of this step writes what earlier steps have left: it may be read before the queries are there.
        tokens = start + tl.arange(0, TILE)
        slots, keys, values = _past(
            head_cache, pages, tokens, tokens < stop, BLOCK_TOKENS, slot_width, KV_HEADS, HEAD_DIM
        )  # fmt: skip
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    # Each number of a rotary pair needs its neighbour, with a sign.
    turn = rotation + row * HEAD_DIM + dims // 2 * 2
    cosine = tl.load(turn)
    sine = tl.load(turn + 1) * tl.where(dims % 2 == 0, -1.0, 1.0)
    places_of_pair = (head * GROUP + members)[:, None] * HEAD_DIM + (dims ^ 1)[None, :]
    straight = tl.load(query + row * query_stride + places, mask=is_member, other=0.0).to(tl.float32)
    crossed = tl.load(query + row * query_stride + places_of_pair, mask=is_member, other=0.0).to(tl.float32)
    queries = (straight * cosine[None, :] + crossed * sine[None, :]).to(query.dtype.element_ty)

    # The row itself belongs to the first split, straight from the projection; no other program may read its slot.
    top = tl.full([GROUP_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_ROWS], tl.float32)
    sums = tl.zeros([GROUP_ROWS, HEAD_DIM], tl.float32)
    if split == 0:
        own = key_value + row * key_value_stride + head * HEAD_DIM
        own_key = tl.load(own + dims).to(tl.float32) * cosine + tl.load(own + (dims ^ 1)).to(tl.float32) * sine
        own_key = own_key.to(key_value.dtype.element_ty)
        own_value = tl.load(own + KV_HEADS * HEAD_DIM + dims)
        slot = cache + tl.load(slot_of + row) * slot_width
        if SCALE_BYTES:
            own_key = round_and_store(own_key, slot, head, 2 * KV_HEADS, HEAD_DIM)
            own_value = round_and_store(own_value, slot, KV_HEADS + head, 2 * KV_HEADS, HEAD_DIM)
        else:
            tl.store(slot + head * HEAD_DIM + dims, own_key)
            tl.store(slot + (KV_HEADS + head) * HEAD_DIM + dims, own_value)
        top = tl.sum(queries.to(tl.float32) * own_key.to(tl.float32)[None, :], axis=1) * scale_log2
        total += 1.0
        sums += own_value.to(tl.float32)[None, :]

    for first in range(start, stop, TILE):
        tokens = first + tl.arange(0, TILE)
        is_seen = tokens < stop
        if AHEAD:
            next_slots, next_keys, next_values = _past(
                head_cache, pages, tokens + TILE, tokens + TILE < stop, BLOCK_TOKENS, slot_width, KV_HEADS, HEAD_DIM
            )  # fmt: skip
        else:
            slots, keys, values = _past(
                head_cache, pages, tokens, is_seen, BLOCK_TOKENS, slot_width, KV_HEADS, HEAD_DIM
            )  # fmt: skip
        scores = tl.dot(queries, tl.trans(keys.to(queries.dtype)), input_precision="ieee") * scale_log2
        if SCALE_BYTES:
            scores *= scales_of(cache + slots * slot_width, is_seen, head, 2 * KV_HEADS, HEAD_DIM)[None, :]
        scores = tl.where(is_seen[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, axis=1)
        if SCALE_BYTES:
            weights *= scales_of(cache + slots * slot_width, is_seen, KV_HEADS + head, 2 * KV_HEADS, HEAD_DIM)[None, :]
        weights = weights.to(queries.dtype)
        sums = sums * shrink[:, None] + tl.dot(weights, values.to(queries.dtype), input_precision="ieee")
        top = new_top
        if AHEAD:
            slots, keys, values = next_slots, next_keys, next_values

    target = out + row * (KV_HEADS * GROUP * HEAD_DIM) + places
    if SPLITS == 1:
        tl.store(target, (sums / total[:, None]).to(out.dtype.element_ty), mask=is_member)
    else:
        part = (row * KV_HEADS + head) * SPLITS + split
        ranks = part * GROUP_ROWS + members
        tl.store(partial_sums + ranks[:, None] * HEAD_DIM + dims[None, :], sums, mask=is_member)
        tl.store(partial_scales + ranks * 2, top, mask=members < GROUP)
        tl.store(partial_scales + ranks * 2 + 1, total, mask=members < GROUP)
        if JOINS:
            # All threads have stored before one of them says so.
            tl.debug_barrier()
            num_before = tl.atomic_add(counters + row * KV_HEADS + head, 1, sem="acq_rel")
            if num_before == SPLITS - 1:
                _join(
                    partial_sums, partial_scales, target, (row * KV_HEADS + head) * SPLITS,
                    GROUP=GROUP, GROUP_ROWS=GROUP_ROWS, HEAD_DIM=HEAD_DIM, SPLITS=SPLITS,
                )  # fmt: skip
                tl.store(counters + row * KV_HEADS + head, 0)


@triton.jit  # type: ignore[untyped-decorator]
def _join(
    partial_sums: tl.tensor,
    partial_scales: tl.tensor,
    target: tl.tensor,
    first_part: tl.tensor,
    GROUP: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SPLITS: tl.constexpr,
) -> None:
    """All query heads of a key-value head, by the last program that found its part: in the order of the parts."""
    members = tl.arange(0, GROUP_ROWS)
    is_member = members < GROUP
    places = members[:, None] * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :]
    top = tl.full([GROUP_ROWS], float("-inf"), tl.float32)
    for split in tl.static_range(0, SPLITS):
        ranks = (first_part + split) * GROUP_ROWS + members
        top = tl.maximum(top, tl.load(partial_scales + ranks * 2, mask=is_member, other=0.0, cache_modifier=".cg"))
    total = tl.zeros([GROUP_ROWS], tl.float32)
    sums = tl.zeros([GROUP_ROWS, HEAD_DIM], tl.float32)
    for split in tl.static_range(0, SPLITS):
        ranks = (first_part + split) * GROUP_ROWS + members
        own_top = tl.load(partial_scales + ranks * 2, mask=is_member, other=0.0, cache_modifier=".cg")
        own_total = tl.load(partial_scales + ranks * 2 + 1, mask=is_member, other=1.0, cache_modifier=".cg")
        part = partial_sums + (first_part + split) * GROUP_ROWS * HEAD_DIM + places
        own_sums = tl.load(part, mask=is_member[:, None], other=0.0, cache_modifier=".cg")
        weight = tl.exp2(own_top - top)
        total += own_total * weight
        sums += own_sums * weight[:, None]
    tl.store(target, (sums / total[:, None]).to(target.dtype.element_ty), mask=is_member[:, None])


@triton.jit  # type: ignore[untyped-decorator]
def _join_kernel(
    partial_sums: tl.tensor,
    partial_scales: tl.tensor,
    out: tl.tensor,
    GROUP: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SPLITS: tl.constexpr,
) -> None:
    """One query head: weigh what the splits found by their share of the softmax."""
    head = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, HEAD_DIM)
    splits = tl.arange(0, SPLITS)
    ranks = ((head // GROUP) * SPLITS + splits) * GROUP_ROWS + head % GROUP
    tops = tl.load(partial_scales + ranks * 2)
    weights = tl.exp2(tops - tl.max(tops, axis=0))
    total = tl.sum(tl.load(partial_scales + ranks * 2 + 1) * weights, axis=0)
    sums = tl.load(partial_sums + ranks[:, None] * HEAD_DIM + dims[None, :])
    joined = tl.sum(sums * weights[:, None], axis=0) / total
    tl.store(out + head * HEAD_DIM + dims, joined.to(out.dtype.element_ty))


class PastCut(NamedTuple):
    """How the past of each row is cut.

    splits:       parts of it, a power of 2, so that few rows too keep the whole GPU busy.
    tile_tokens:  read at a time.
    is_ahead:     the first tile is read before the queries are there.
    """

    splits: int
    tile_tokens: int
    is_ahead: bool


def cut_past(num_rows: int, num_kv_heads: int, *, reads_ahead: bool) -> PastCut:
    """Where a past is not shared out, programs are many, and reading ahead takes registers that others need."""
    programs = num_rows * num_kv_heads
    wanted = 1 << (max(1, _WANTED_PROGRAMS // programs).bit_length() - 1)
    if reads_ahead and wanted > 1:
        return PastCut(min(_MOST_SPLITS_AHEAD, wanted), _TILE_TOKENS, is_ahead=True)
    tile_tokens = _FEW_TILE_TOKENS if programs <= _FEW_PROGRAMS else _TILE_TOKENS
    return PastCut(min(_MOST_SPLITS, wanted), tile_tokens, is_ahead=False)


class DecodeAttention:
    """See `decode_attention_plain`; reads nothing on the host, and nothing that a row does not see.

    Heads of `query` and of `key_value` must lie side by side within a row; head_dim must be a power of 2, 16 or more.

    counters:     int32 zeros, one for each row and key-value head: the last program of a row joins what all have found,
                  where a kernel of its own would else; they are zero again afterwards.
    pdl:          the kernel may be launched before the one before it has ended (see `one_row_linear_triton.py`).
    reads_ahead:  it then reads what is cached of a row while the one before it still runs. Nothing that is launched
                  before it and has not ended may write there.
    """

    def __init__(self, counters: Tensor | None = None, *, pdl: bool = False, reads_ahead: bool = False) -> None:
        self._counters, self._pdl, self._reads_ahead = counters, pdl, reads_ahead

    def __call__(
        self, query: Tensor, key_value: Tensor, rotation: Tensor, cache: Tensor, pages: DecodePages, block_tokens: int
    ) -> Tensor:
        """See `decode_attention_plain`."""
        num_rows, num_heads, head_dim = query.shape
        kv_heads = key_value.shape[1] // 2
        group = num_heads // kv_heads
        group_rows = max(_LEAST_DOT_ROWS, power_of_2(group))
        splits, tile_tokens, is_ahead = cut_past(num_rows, kv_heads, reads_ahead=self._reads_ahead)
        out = torch.empty(num_rows, num_heads * head_dim, dtype=query.dtype, device=query.device)
        parts = (num_rows * kv_heads * splits * group_rows) if splits > 1 else 1
        sums = torch.empty(parts, head_dim, dtype=torch.float32, device=query.device)
        scales = torch.empty(parts, 2, dtype=torch.float32, device=query.device)
        joins = splits > 1 and self._counters is not None and num_rows * kv_heads <= len(self._counters)
        _attend_kernel[(num_rows, kv_heads, splits)](
            query, key_value, rotation, cache, pages.past, pages.slots, pages.table, pages.table_width, out, sums,
            scales, self._counters if joins else scales, head_dim**-0.5 * 1.4426950408889634, query.stride(0),
            key_value.stride(0),
            BLOCK_TOKENS=block_tokens, KV_HEADS=kv_heads, GROUP=group, GROUP_ROWS=group_rows, HEAD_DIM=head_dim,
            SPLITS=splits, TILE=tile_tokens, SCALE_BYTES=SCALE_BYTES if cache.dtype == torch.int8 else 0,
            JOINS=joins, AHEAD=is_ahead, PDL=self._pdl, num_warps=4, **({"launch_pdl": True} if self._pdl else {}),
        )  # fmt: skip
        if splits > 1 and not joins:
            _join_kernel[(num_rows * num_heads,)](
                sums, scales, out, GROUP=group, GROUP_ROWS=group_rows, HEAD_DIM=head_dim, SPLITS=splits, num_warps=2
            )
        return out
