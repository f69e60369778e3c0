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

from light_tts.kernels.flow_attention import FlowPages, RelativePositions

_LEAST_DOT_ROWS = 16  # of a matrix product on tensor cores
_FEW_PROGRAMS = 32  # of 64 queries each
_MANY_PROGRAMS = 1024
_LOG2_E = 1.4426950408889634


@triton.jit  # type: ignore[untyped-decorator]
def _attend_tile(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    by_distance: tl.tensor,
    is_visible: tl.tensor,
    top: tl.tensor,
    total: tl.tensor,
    sums: tl.tensor,
    scale_log2: tl.tensor,
    PRECISION: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """One tile of keys of the running softmax. key: [D, N], value: [N, D], by_distance: added to the scaled scores."""
    scores = tl.dot(query, key, input_precision=PRECISION) * scale_log2 + by_distance
    scores = tl.where(is_visible, scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, axis=1))
    # A query that has seen no key yet would subtract infinity from infinity.
    base = tl.where(new_top == float("-inf"), 0.0, new_top)
    weights = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(top - base)
    total = total * shrink + tl.sum(weights, axis=1)
    sums = sums * shrink[:, None] + tl.dot(weights.to(value.dtype), value, input_precision=PRECISION)
    return new_top, total, sums


@triton.jit  # type: ignore[untyped-decorator]
def _scores_by_distance(
    shifted: tl.tensor,
    table: tl.tensor,
    nearest: tl.tensor,
    DIMS: tl.constexpr,
    REACH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WINDOW: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tl.tensor:
    """[Q, N] scores of a tile of keys, the first query being `nearest` steps after the first key."""
    # All distances that occur, one product, and from each row what its keys need.
    rows = nearest - (KEYS - 1) + tl.arange(0, WINDOW) + REACH - 1
    is_row = (rows >= 0) & (rows < 2 * REACH - 1)
    dims = tl.arange(0, DIMS)
    vectors = tl.load(table + rows[None, :] * DIMS + dims[:, None], mask=is_row[None, :], other=0.0)
    scores = tl.dot(shifted, vectors, input_precision=PRECISION) * 1.4426950408889634
    return tl.gather(scores, tl.arange(0, QUERIES)[:, None] - tl.arange(0, KEYS)[None, :] + KEYS - 1, axis=1)


@triton.jit  # type: ignore[untyped-decorator]
def _rotated(
    x: tl.tensor, cosines: tl.tensor, sines: tl.tensor, steps: tl.tensor, is_step: tl.tensor, DIMS: tl.constexpr
) -> tl.tensor:
    """[N, D] with each pair of neighbours turned by the angle of its step."""
    pairs = tl.arange(0, DIMS // 2)
    places = steps[:, None] * (DIMS // 2) + pairs[None, :]
    cosine = tl.load(cosines + places, mask=is_step[:, None], other=1.0)
    sine = tl.load(sines + places, mask=is_step[:, None], other=0.0)
    even, odd = tl.split(tl.reshape(x.to(tl.float32), [x.shape[0], DIMS // 2, 2]))
    turned = tl.join(even * cosine - odd * sine, odd * cosine + even * sine)
    return tl.reshape(turned, [x.shape[0], DIMS]).to(x.dtype)


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
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    HAS_ROTATION: tl.constexpr,
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
    num_past = tl.load(num_past_of + sequence)
    length = tl.load(length_of + sequence)
    chunk = tl.load(chunk_of + sequence)

    dims = tl.arange(0, HEAD_DIM)
    steps = tile * QUERIES + tl.arange(0, QUERIES)
    is_step = steps < num_steps
    row_start = row.to(tl.int64) * num_steps
    own = qkv + (row_start + steps)[:, None] * (3 * width) + head * HEAD_DIM + dims[None, :]
    query = tl.load(own, mask=is_step[:, None], other=0.0)
    cosines = rotation + sequence * num_steps * (HEAD_DIM // 2)
    sines = cosines + num_sequences * num_steps * (HEAD_DIM // 2)
    if HAS_ROTATION:  # noqa: SIM102 (known at compile time)
        if head == 0:
            query = _rotated(query, cosines, sines, steps, is_step, HEAD_DIM)

    # Every tile keeps its own steps; first, since nothing waits for it.
    save = tl.load(saves + sequence * saves_width + steps // PAGE_STEPS, mask=is_step, other=-1).to(tl.int64)
    is_kept = (save >= 0)[:, None]
    target = save * page_stride + (guidance_row * PAGE_STEPS + steps % PAGE_STEPS) * (2 * width) + head * HEAD_DIM
    target_places = kept + target[:, None] + dims[None, :]
    own_key = tl.load(own + width, mask=is_kept, other=0.0)
    if HAS_ROTATION:  # noqa: SIM102 (known at compile time)
        if head == 0:
            own_key = _rotated(own_key, cosines, sines, steps, is_step, HEAD_DIM)
    tl.store(target_places, own_key, mask=is_kept)
    tl.store(target_places + width, tl.load(own + 2 * width, mask=is_kept, other=0.0), mask=is_kept)

    shifted = query
    table += head * (2 * REACH - 1) * HEAD_DIM
    if REACH > 0:
        shifted = query + tl.load(shift + head * HEAD_DIM + dims)[None, :]

    top = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    sums = tl.zeros([QUERIES, HEAD_DIM], tl.float32)

    past_steps = num_past * PAGE_STEPS
    pages = past + sequence * PAST_WIDTH + PAST_WIDTH - num_past
    for start in range(0, past_steps, KEYS):
        places = start + tl.arange(0, KEYS)
        is_past = places < past_steps
        page = tl.load(pages + places // PAGE_STEPS, mask=is_past, other=0).to(tl.int64)
        offsets = page * page_stride + (guidance_row * PAGE_STEPS + places % PAGE_STEPS) * (2 * width) + head * HEAD_DIM
        key = tl.load(kept + offsets[None, :] + dims[:, None], mask=is_past[None, :], other=0.0)
        value = tl.load(kept + offsets[:, None] + width + dims[None, :], mask=is_past[:, None], other=0.0)
        by_distance = 0.0
        if REACH > 0:
            nearest = tile * QUERIES + past_steps - start
            by_distance = _scores_by_distance(
                shifted, table, nearest, HEAD_DIM, REACH, QUERIES, KEYS, WINDOW, PRECISION
            )
        top, total, sums = _attend_tile(
            query, key, value, by_distance, is_past[None, :], top, total, sums, scale_log2, PRECISION
        )

    ends = tl.minimum(length, (steps // chunk + 1) * chunk)
    last_end = tl.minimum(length, ((tile * QUERIES + QUERIES - 1) // chunk + 1) * chunk)
    for start in range(0, last_end, KEYS):
        places = start + tl.arange(0, KEYS)
        is_new = places < last_end
        offsets = (row_start + places) * (3 * width) + width + head * HEAD_DIM
        key = tl.load(qkv + offsets[:, None] + dims[None, :], mask=is_new[:, None], other=0.0)
        if HAS_ROTATION:  # noqa: SIM102
            if head == 0:
                key = _rotated(key, cosines, sines, places, is_new, HEAD_DIM)
        key = tl.trans(key)
        value = tl.load(qkv + offsets[:, None] + width + dims[None, :], mask=is_new[:, None], other=0.0)
        by_distance = 0.0
        if REACH > 0:
            by_distance = _scores_by_distance(
                shifted, table, tile * QUERIES - start, HEAD_DIM, REACH, QUERIES, KEYS, WINDOW, PRECISION
            )
        is_visible = places[None, :] < ends[:, None]
        top, total, sums = _attend_tile(
            query, key, value, by_distance, is_visible, top, total, sums, scale_log2, PRECISION
        )

    result = sums / tl.where(total == 0.0, 1.0, total)[:, None]
    places_out = out + (row_start + steps)[:, None] * width + head * HEAD_DIM + dims[None, :]
    tl.store(places_out, result.to(out.dtype.element_ty), mask=is_step[:, None])


def can_attend(head_dim: int) -> bool:
    """True for head widths that this kernel takes: powers of 2 of at least 16."""
    return head_dim >= _LEAST_DOT_ROWS and head_dim & (head_dim - 1) == 0


class _Tile(NamedTuple):
    """Queries and keys of a tile, and for how many tiles of keys loads run ahead."""

    queries: int
    keys: int
    stages: int


def _tile(num_rows: int, num_steps: int, heads: int, *, has_positions: bool, has_rotation: bool) -> _Tile:
    """Few queries and many keys while programs are too few for a device; the rest was measured on an H100."""
    programs = num_rows * heads * triton.cdiv(num_steps, 64)
    if programs <= _FEW_PROGRAMS:
        return _Tile(_LEAST_DOT_ROWS, 64 if has_positions else 128, 2)
    most_queries = 32 if has_positions else 64
    queries = min(most_queries, max(_LEAST_DOT_ROWS, triton.next_power_of_2(num_steps)))
    if has_positions or programs < _MANY_PROGRAMS:
        return _Tile(queries, 64, 2)
    return _Tile(queries, 64, 1) if has_rotation else _Tile(queries, 32, 3)


def paged_chunk_attention(
    qkv: Tensor,
    kept: Tensor,
    pages: FlowPages,
    heads: int,
    rotation: Tensor | None = None,
    positions: RelativePositions | None = None,
) -> Tensor:
    """See `paged_chunk_attention_plain`; all tensors must be contiguous, `kept` within its pages."""
    rows, steps, width3 = qkv.shape
    width, sequences = width3 // 3, pages.past.shape[0]
    head_dim = width // heads
    out = torch.empty(rows, steps, width, dtype=qkv.dtype, device=qkv.device)
    tile = _tile(rows, steps, heads, has_positions=positions is not None, has_rotation=rotation is not None)
    _attention_kernel[(triton.cdiv(steps, tile.queries), heads, rows)](
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
        PAGE_STEPS=kept.shape[2],
        QUERIES=tile.queries,
        KEYS=tile.keys,
        HAS_ROTATION=rotation is not None,
        REACH=0 if positions is None else positions.reach,
        WINDOW=triton.next_power_of_2(tile.queries + tile.keys),
        PRECISION="ieee" if qkv.dtype == torch.float32 else "tf32",
        num_warps=4,
        num_stages=tile.stages,
    )
    return out
