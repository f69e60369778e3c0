"""Flash attention (Dao et al. 2022, arXiv:2205.14135) of new steps over paged past and themselves, with the chunk mask
and the keeping of new keys and values inside. Plain version: `flow_attention.py`.

Importing this needs Triton. Lengths, masks and pages are read on the device: a recorded CUDA graph serves pasts of any
length.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.attention_parts_triton import attend_tile, rotated, scores_by_distance
from light_tts.kernels.flow_attention import FlowPages, RelativePositions
from light_tts.kernels.flow_attention_few_triton import few_chunk_attention, takes_attention
from light_tts.kernels.flow_pages_triton import keep, past_tile
from light_tts.kernels.kv_slots_triton import as_kept
from light_tts.kernels.launch_sizes import ceil_div, power_of_2

_LEAST_DOT_ROWS = 16  # of a matrix product on tensor cores
_FEW_PROGRAMS = 32  # of 64 queries each
_LOG2_E = 1.4426950408889634
_MOST_REGISTERS = 128  # of a thread, so that four programs share a multiprocessor


@triton.jit  # type: ignore[untyped-decorator]
def _attend_new(
    query: tl.tensor,
    shifted: tl.tensor,
    keys: tl.tensor,
    table: tl.tensor,
    cosines: tl.tensor,
    sines: tl.tensor,
    head: tl.tensor,
    first_query: tl.tensor,
    begin: tl.tensor,
    ends: tl.tensor,
    last_end: tl.tensor,
    top: tl.tensor,
    total: tl.tensor,
    sums: tl.tensor,
    scale_log2: tl.tensor,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    HAS_ROTATION: tl.constexpr,
    IS_ROUNDED: tl.constexpr,
    REACH: tl.constexpr,
    WINDOW: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The running softmax over the new steps from `begin` on, of which each query sees those before its end.

    keys: the first one's place in memory; IS_ROUNDED: seen as they would be found in int8.
    """
    width: tl.constexpr = HEADS * HEAD_DIM
    dims = tl.arange(0, HEAD_DIM)
    for start in range(begin, last_end, KEYS):
        places = start + tl.arange(0, KEYS)
        is_new = (places < last_end)[:, None]
        found = keys + places[:, None] * (3 * width) + dims[None, :]
        key = tl.load(found, mask=is_new, other=0.0)
        value = tl.load(found + width, mask=is_new, other=0.0)
        if HAS_ROTATION:  # noqa: SIM102 (known at compile time)
            if head == 0:
                key = rotated(key, cosines, sines, places, places < last_end, HEAD_DIM)
        if IS_ROUNDED:
            key, value = as_kept(key), as_kept(value)
        by_distance = 0.0
        if REACH > 0:
            by_distance = scores_by_distance(
                shifted, table, first_query - start, HEAD_DIM, REACH, QUERIES, KEYS, WINDOW, PRECISION
            )
        is_visible = places[None, :] < ends[:, None]
        top, total, sums = attend_tile(
            query, tl.trans(key), value, by_distance, is_visible, top, total, sums, scale_log2, REACH > 0, PRECISION
        )
    return top, total, sums


@triton.jit(do_not_specialize=["num_steps", "num_sequences", "saves_width"])  # type: ignore[untyped-decorator]
def _attention_kernel(
    qkv: tl.tensor,
    kept: tl.tensor,
    past: tl.tensor,
    num_past_of: tl.tensor,
    length_of: tl.tensor,
    chunk_of: tl.tensor,
    saves: tl.tensor,
    rotation: tl.tensor,
    table: tl.tensor,
    shift: tl.tensor,
    out: tl.tensor,
    scale_log2: tl.tensor,
    num_steps: tl.tensor,
    num_sequences: tl.tensor,
    page_stride: tl.tensor,
    saves_width: tl.tensor,
    PAST_WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_STEPS: tl.constexpr,
    PAGE_TILE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    HAS_ROTATION: tl.constexpr,
    IS_INT8: tl.constexpr,
    REACH: tl.constexpr,
    WINDOW: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    tile = tl.program_id(0)
    head = tl.program_id(1)
    row = tl.program_id(2)
    sequence = row % num_sequences
    guidance_row = row // num_sequences
    width: tl.constexpr = HEADS * HEAD_DIM

    dims = tl.arange(0, HEAD_DIM)
    steps = tile * QUERIES + tl.arange(0, QUERIES)
    is_step = steps < num_steps
    row_start = row.to(tl.int64) * num_steps
    own = qkv + (row_start + steps)[:, None] * (3 * width) + head * HEAD_DIM + dims[None, :]
    cosines = rotation + sequence * num_steps * (HEAD_DIM // 2)
    sines = cosines + num_sequences * num_steps * (HEAD_DIM // 2)
    # What is new is kept first, since nothing here waits for it.
    keep(
        own, kept, saves + sequence * saves_width, cosines, sines, head, guidance_row, steps, is_step, page_stride,
        HEADS, HEAD_DIM, PAGE_STEPS, HAS_ROTATION, IS_INT8,
    )  # fmt: skip

    num_past = tl.load(num_past_of + sequence)
    length = tl.load(length_of + sequence)
    chunk = tl.load(chunk_of + sequence)
    is_rounded = IS_INT8 and chunk <= PAGE_STEPS
    keys = qkv + row_start * (3 * width) + width + head * HEAD_DIM
    query = tl.load(own, mask=is_step[:, None], other=0.0)
    if HAS_ROTATION:  # noqa: SIM102 (known at compile time)
        if head == 0:
            query = rotated(query, cosines, sines, steps, is_step, HEAD_DIM)
    shifted = query
    table += head * (2 * REACH - 1) * HEAD_DIM
    if REACH > 0:
        shifted = query + tl.load(shift + head * HEAD_DIM + dims)[None, :]

    top = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    sums = tl.zeros([QUERIES, HEAD_DIM], tl.float32)

    pages = past + sequence * PAST_WIDTH + PAST_WIDTH - 1
    for first in range(0, num_past, KEYS // PAGE_TILE):
        key, value, is_past = past_tile(
            kept, pages, first, num_past, head, guidance_row, page_stride,
            query.dtype, PAST_WIDTH, HEADS, HEAD_DIM, PAGE_STEPS, PAGE_TILE, KEYS, IS_INT8,
        )  # fmt: skip
        by_distance = 0.0
        if REACH > 0:
            nearest = tile * QUERIES + (first + 1) * PAGE_STEPS
            by_distance = scores_by_distance(shifted, table, nearest, HEAD_DIM, REACH, QUERIES, KEYS, WINDOW, PRECISION)
        top, total, sums = attend_tile(
            query, key, value, by_distance, is_past[None, :], top, total, sums, scale_log2, REACH > 0, PRECISION
        )

    ends = tl.minimum(length, (steps // chunk + 1) * chunk)
    last_end = tl.minimum(length, ((tile * QUERIES + QUERIES - 1) // chunk + 1) * chunk)
    if is_rounded:
        top, total, sums = _attend_new(
            query, shifted, keys, table, cosines, sines, head, tile * QUERIES, 0, ends, last_end, top, total,
            sums, scale_log2, HEADS, HEAD_DIM, QUERIES, KEYS, HAS_ROTATION, True, REACH, WINDOW, PRECISION,
        )  # fmt: skip
    else:
        top, total, sums = _attend_new(
            query, shifted, keys, table, cosines, sines, head, tile * QUERIES, 0, ends, last_end, top, total,
            sums, scale_log2, HEADS, HEAD_DIM, QUERIES, KEYS, HAS_ROTATION, False, REACH, WINDOW, PRECISION,
        )  # fmt: skip

    result = sums / tl.where(total == 0.0, 1.0, total)[:, None]
    places_out = out + (row_start + steps)[:, None] * width + head * HEAD_DIM + dims[None, :]
    tl.store(places_out, result.to(out.dtype.element_ty), mask=is_step[:, None])


def can_attend(head_dim: int) -> bool:
    """True for head widths that this kernel takes: powers of 2 of at least 16."""
    return head_dim >= _LEAST_DOT_ROWS and head_dim & (head_dim - 1) == 0


class _Tile(NamedTuple):
    """Of one program.

    queries, keys:  of a tile.
    warps, stages:  its warps, and for how many tiles of keys loads run ahead.
    registers:      that a thread may have.
    """

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2
    registers: int | None = None


def _tile(batch: int, num_steps: int, page_steps: int, *, is_int8: bool, has_positions: bool) -> _Tile:
    """Few queries while programs are too few for a device; measured on an H100. batch: rows times heads."""
    one_page = _powered(page_steps)
    if has_positions:  # distances within a tile are those of neighbours: of one page only
        is_few = batch * ceil_div(num_steps, 64) <= _FEW_PROGRAMS
        return _Tile(min(_LEAST_DOT_ROWS if is_few else 32, _powered(num_steps)), one_page)
    queries = min(64, _powered(num_steps))
    return _Tile(queries, max(one_page, 64), stages=1 if is_int8 else 2, registers=_MOST_REGISTERS)


def _powered(num_steps: int) -> int:
    return max(_LEAST_DOT_ROWS, power_of_2(num_steps))


def paged_chunk_attention(
    qkv: Tensor,
    kept: Tensor,
    pages: FlowPages,
    heads: int,
    rotation: Tensor | None = None,
    positions: RelativePositions | None = None,
    *,
    overlaps: bool = False,
) -> Tensor:
    """See `paged_chunk_attention_plain`; all tensors must be contiguous, `kept` within its pages.

    overlaps:  few steps are attended to in a kernel that is launched early; see `few_chunk_attention`.
    """
    rows, steps, width3 = qkv.shape
    width, sequences, page_steps = width3 // 3, pages.past.shape[0], kept.shape[2]
    head_dim, is_int8 = width // heads, kept.dtype == torch.int8
    if positions is None and takes_attention(rows, steps, heads):
        return few_chunk_attention(qkv, kept, pages, heads, rotation, overlaps=overlaps)
    out = torch.empty(rows, steps, width, dtype=qkv.dtype, device=qkv.device)
    tile = _tile(rows * heads, steps, page_steps, is_int8=is_int8, has_positions=positions is not None)
    _attention_kernel[(ceil_div(steps, tile.queries), heads, rows)](
        qkv,
        kept,
        pages.past,
        pages.num_past,
        pages.lengths,
        pages.chunks,
        pages.saves,
        qkv if rotation is None else rotation,
        qkv if positions is None else positions.table,
        qkv if positions is None else positions.shift,
        out,
        head_dim**-0.5 * _LOG2_E,
        steps,
        sequences,
        kept.stride(0),
        pages.saves.shape[1],
        PAST_WIDTH=pages.past.shape[1],
        HEADS=heads,
        HEAD_DIM=head_dim,
        PAGE_STEPS=page_steps,
        PAGE_TILE=_powered(page_steps),
        QUERIES=tile.queries,
        KEYS=tile.keys,
        HAS_ROTATION=rotation is not None,
        IS_INT8=is_int8,
        REACH=0 if positions is None else positions.reach,
        WINDOW=power_of_2(tile.queries + tile.keys),
        PRECISION="ieee" if qkv.dtype == torch.float32 else "tf32",
        num_warps=tile.warps,
        num_stages=tile.stages,
        maxnreg=tile.registers,
    )
    return out
