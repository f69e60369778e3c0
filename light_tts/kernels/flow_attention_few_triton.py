"""Attention of so few new steps that programs are fewer than multiprocessors. Plain version: `flow_attention.py`.

One program's waits are then all that a call takes. The newest pages are loaded before the kernel in front has ended;
what is new comes in one tile, and one softmax serves both; keeping it is left to programs of their own.

Importing this needs Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.attention_parts_triton import attend_tile, rotated
from light_tts.kernels.flow_attention import FlowPages
from light_tts.kernels.flow_pages_triton import keep, past_tile
from light_tts.kernels.kv_slots_triton import as_kept
from light_tts.kernels.launch_sizes import ceil_div, power_of_2
from light_tts.kernels.triton_math import (
    has_large_shared_memory,
    launch_options,
    precision_of,
    take_over,
)

_LEAST_DOT_ROWS = 16  # of a matrix product on tensor cores
_QUERIES = _LEAST_DOT_ROWS  # of a program
_OWN = 64  # new steps of a tile
_KEYS = 256  # of a tile of the past, in 16 bits: four pages of 50 steps
_WARPS = 4
_MOST_TILES = 256  # of new steps, in all programs
_LOG2_E = 1.4426950408889634


@triton.jit  # type: ignore[untyped-decorator]
def _attend_two(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    is_visible: tl.tensor,
    own_key: tl.tensor,
    own_value: tl.tensor,
    is_own_visible: tl.tensor,
    scale_log2: tl.tensor,
    PRECISION: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The running softmax after two tiles, in the second of which every query sees something.

    key: [D, N]; value, own_key, own_value: [N, D].
    """
    scores = tl.dot(query, key, input_precision=PRECISION)
    own_scores = tl.dot(query, tl.trans(own_key), input_precision=PRECISION)
    scores = tl.where(is_visible, scores, float("-inf"))
    own_scores = tl.where(is_own_visible, own_scores, float("-inf"))
    top = tl.maximum(tl.max(scores, axis=1), tl.max(own_scores, axis=1))
    base = (top * scale_log2)[:, None]
    weights = tl.exp2(scores * scale_log2 - base)
    own_weights = tl.exp2(own_scores * scale_log2 - base)
    sums = tl.dot(weights.to(value.dtype), value, input_precision=PRECISION)
    sums = tl.dot(own_weights.to(value.dtype), own_value, sums, input_precision=PRECISION)
    return top, tl.sum(weights, axis=1) + tl.sum(own_weights, axis=1), sums


@triton.jit(do_not_specialize=["num_steps", "num_sequences", "saves_width"])  # type: ignore[untyped-decorator]
def _few_attention_kernel(
    qkv: tl.tensor,
    kept: tl.tensor,
    past: tl.tensor,
    num_past_of: tl.tensor,
    length_of: tl.tensor,
    chunk_of: tl.tensor,
    saves: tl.tensor,
    rotation: tl.tensor,
    matrix: tl.tensor,
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
    OWN: tl.constexpr,
    HAS_ROTATION: tl.constexpr,
    IS_INT8: tl.constexpr,
    OUT: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAPS: tl.constexpr,
) -> None:
    """OUT: channels of a product inside, 0: none."""
    num_tiles = tl.cdiv(num_steps, QUERIES)
    tile = tl.program_id(0) % num_tiles
    head = tl.program_id(1)
    row = tl.program_id(2)
    sequence = row % num_sequences
    guidance_row = row // num_sequences
    width: tl.constexpr = HEADS * HEAD_DIM
    kind: tl.constexpr = qkv.dtype.element_ty
    dims = tl.arange(0, HEAD_DIM)
    steps = tile * QUERIES + tl.arange(0, QUERIES)
    is_step = steps < num_steps
    row_start = row.to(tl.int64) * num_steps
    own = qkv + (row_start + steps)[:, None] * (3 * width) + head * HEAD_DIM + dims[None, :]
    cosines = rotation + sequence * num_steps * (HEAD_DIM // 2)
    sines = cosines + num_sequences * num_steps * (HEAD_DIM // 2)
    if tl.program_id(0) >= num_tiles:
        take_over(OVERLAPS)
        keep(
            own, kept, saves + sequence * saves_width, cosines, sines, head, guidance_row, steps, is_step, page_stride,
            HEADS, HEAD_DIM, PAGE_STEPS, HAS_ROTATION, IS_INT8,
        )  # fmt: skip
        return

    # Pages and their numbers were written before this call: none of the kernels in front touches them.
    num_past = tl.load(num_past_of + sequence)
    length = tl.load(length_of + sequence)
    chunk = tl.load(chunk_of + sequence)
    pages = past + sequence * PAST_WIDTH + PAST_WIDTH - 1
    key, value, is_past = past_tile(
        kept, pages, 0, num_past, head, guidance_row, page_stride,
        kind, PAST_WIDTH, HEADS, HEAD_DIM, PAGE_STEPS, PAGE_TILE, KEYS, IS_INT8,
    )  # fmt: skip
    if OUT > 0:
        channels = tl.arange(0, OUT)
        weights = tl.load(matrix + channels[None, :] * width + (head * HEAD_DIM + dims)[:, None])
    take_over(OVERLAPS)
    keys = qkv + row_start * (3 * width) + width + head * HEAD_DIM
    own_steps = tl.arange(0, OWN)
    own_places = keys + own_steps[:, None] * (3 * width) + dims[None, :]
    is_own = own_steps < num_steps
    query = tl.load(own, mask=is_step[:, None], other=0.0)
    own_key = tl.load(own_places, mask=is_own[:, None], other=0.0)
    own_value = tl.load(own_places + width, mask=is_own[:, None], other=0.0)
    if HAS_ROTATION:  # noqa: SIM102 (known at compile time)
        if head == 0:
            query = rotated(query, cosines, sines, steps, is_step, HEAD_DIM)
            own_key = rotated(own_key, cosines, sines, own_steps, is_own, HEAD_DIM)
    own_value = tl.where((own_steps < length)[:, None], own_value, 0.0)  # padding may be anything
    is_rounded = IS_INT8 and chunk <= PAGE_STEPS
    if is_rounded:
        own_key, own_value = as_kept(own_key), as_kept(own_value)
    ends = tl.minimum(length, (steps // chunk + 1) * chunk)
    is_visible = own_steps[None, :] < ends[:, None]
    top, total, sums = _attend_two(
        query, key, value, is_past[None, :], own_key, own_value, is_visible, scale_log2, PRECISION
    )
    # What is more than a tile of either kind.
    for first in range(KEYS // PAGE_TILE, num_past, KEYS // PAGE_TILE):
        key, value, is_past = past_tile(
            kept, pages, first, num_past, head, guidance_row, page_stride,
            kind, PAST_WIDTH, HEADS, HEAD_DIM, PAGE_STEPS, PAGE_TILE, KEYS, IS_INT8,
        )  # fmt: skip
        top, total, sums = attend_tile(
            query, key, value, 0.0, is_past[None, :], top, total, sums, scale_log2, False, PRECISION
        )
    last_end = tl.minimum(length, ((tile * QUERIES + QUERIES - 1) // chunk + 1) * chunk)
    for start in range(OWN, last_end, OWN):
        places = start + own_steps
        is_new = places < last_end
        found = keys + places[:, None] * (3 * width) + dims[None, :]
        own_key = tl.load(found, mask=is_new[:, None], other=0.0)
        own_value = tl.load(found + width, mask=is_new[:, None], other=0.0)
        if HAS_ROTATION:  # noqa: SIM102 (known at compile time)
            if head == 0:
                own_key = rotated(own_key, cosines, sines, places, is_new, HEAD_DIM)
        if is_rounded:
            own_key, own_value = as_kept(own_key), as_kept(own_value)
        is_visible = places[None, :] < ends[:, None]
        top, total, sums = attend_tile(
            query, tl.trans(own_key), own_value, 0.0, is_visible, top, total, sums, scale_log2, False, PRECISION
        )
    result = (sums / total[:, None]).to(kind)
    if OUT > 0:
        part = tl.dot(result, weights, input_precision=PRECISION)
        first_row = head.to(tl.int64) * num_steps * tl.num_programs(2) + row_start
        places_out = out + (first_row + steps)[:, None] * OUT + channels[None, :]
        tl.store(places_out, part.to(out.dtype.element_ty), mask=is_step[:, None])
    else:
        places_out = out + (row_start + steps)[:, None] * width + head * HEAD_DIM + dims[None, :]
        tl.store(places_out, result, mask=is_step[:, None])


def takes_attention(rows: int, steps: int, heads: int) -> bool:
    """True where `few_chunk_attention` is faster on an H200 than larger tiles."""
    return rows * heads * ceil_div(steps, _QUERIES) * ceil_div(steps, _OWN) <= _MOST_TILES


def takes_attention_parts(rows: int, steps: int, heads: int, matrix: Tensor) -> bool:
    """True where `attention_parts` is, too; it needs more shared memory than small GPUs have."""
    return takes_attention(rows, steps, heads) and has_large_shared_memory(matrix.device)


def few_chunk_attention(
    qkv: Tensor,
    kept: Tensor,
    pages: FlowPages,
    heads: int,
    rotation: Tensor | None = None,
    matrix: Tensor | None = None,
    *,
    overlaps: bool,
) -> Tensor:
    """See `paged_chunk_attention_plain`, or with a matrix `attention_parts_plain`.

    All tensors must be contiguous, `kept` within its pages; the matrix has a power of 2 of rows.
    overlaps:   launched before the kernel before has ended; see `triton_math.begin`. That one must not write to `kept`
                or `pages`, nor those before it that were launched so.
    """
    rows, steps, width3 = qkv.shape
    width, sequences, page_steps = width3 // 3, pages.past.shape[0], kept.shape[2]
    head_dim = width // heads
    shape = (rows, steps, width) if matrix is None else (heads, rows * steps, len(matrix))
    out = torch.empty(shape, dtype=qkv.dtype, device=qkv.device)
    page_tile = max(_LEAST_DOT_ROWS, power_of_2(page_steps))
    _few_attention_kernel[(2 * ceil_div(steps, _QUERIES), heads, rows)](
        qkv,
        kept,
        pages.past,
        pages.num_past,
        pages.lengths,
        pages.chunks,
        pages.saves,
        qkv if rotation is None else rotation,
        qkv if matrix is None else matrix,
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
        PAGE_TILE=page_tile,
        QUERIES=_QUERIES,
        KEYS=page_tile if qkv.dtype == torch.float32 else max(page_tile, _KEYS),
        OWN=_OWN,
        HAS_ROTATION=rotation is not None,
        IS_INT8=kept.dtype == torch.int8,
        OUT=0 if matrix is None else len(matrix),
        PRECISION=precision_of(qkv.dtype),
        num_warps=_WARPS,
        num_stages=1,
        **launch_options(rows * steps, overlaps),
    )
    return out


def attention_parts(
    qkv: Tensor, kept: Tensor, pages: FlowPages, heads: int, matrix: Tensor, *, overlaps: bool = False
) -> Tensor:
    """See `attention_parts_plain` and `few_chunk_attention`."""
    return few_chunk_attention(qkv, kept, pages, heads, None, matrix, overlaps=overlaps)
