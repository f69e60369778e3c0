"""Pages of the flow's states, read and written inside attention and convolutions. Importing this needs Triton."""

from __future__ import annotations

import triton
import triton.language as tl

from light_tts.kernels.attention_parts_triton import rotated
from light_tts.kernels.kv_slots_triton import round_steps, scales_of, store_scales


@triton.jit  # type: ignore[untyped-decorator]
def past_tile(
    kept: tl.tensor,
    pages: tl.tensor,
    first: tl.tensor,
    num_past: tl.tensor,
    head: tl.tensor,
    guidance_row: tl.tensor,
    page_stride: tl.tensor,
    KIND: tl.constexpr,
    PAST_WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_STEPS: tl.constexpr,
    PAGE_TILE: tl.constexpr,
    KEYS: tl.constexpr,
    IS_INT8: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Keys [D, KEYS] and values [KEYS, D] of a head in a tile of whole pages, and which steps are there.

    pages:  place of the newest page's number; those before it are older.
    first:  the tile's newest page, counted back from there.
    A page takes PAGE_TILE steps, filled up with such as are not there: where steps lie is then nearly all known before
    pages are.
    """
    width: tl.constexpr = HEADS * HEAD_DIM
    slot_width: tl.constexpr = 2 * HEADS * (HEAD_DIM + 4) if IS_INT8 else 2 * width
    dims = tl.arange(0, HEAD_DIM)
    page_in_tile = tl.arange(0, KEYS) // PAGE_TILE
    step_in_page = tl.arange(0, KEYS) % PAGE_TILE
    in_page = (guidance_row * PAGE_STEPS + step_in_page) * slot_width
    back = first + page_in_tile
    is_past = (step_in_page < PAGE_STEPS) & (back < num_past)
    page = tl.load(pages - tl.minimum(back, PAST_WIDTH - 1)).to(tl.int64)
    slots = kept + page * page_stride + in_page
    found = slots + head * HEAD_DIM
    key = tl.load(found[None, :] + dims[:, None], mask=is_past[None, :], other=0.0)
    value = tl.load(found[:, None] + width + dims[None, :], mask=is_past[:, None], other=0.0)
    if IS_INT8:
        key_scales = scales_of(slots, is_past, head, 2 * HEADS, HEAD_DIM).to(KIND)
        value_scales = scales_of(slots, is_past, HEADS + head, 2 * HEADS, HEAD_DIM).to(KIND)
        key = key.to(KIND) * key_scales[None, :]
        value = value.to(KIND) * value_scales[:, None]
    return key, value, is_past


@triton.jit  # type: ignore[untyped-decorator]
def keep(
    own: tl.tensor,
    kept: tl.tensor,
    saves: tl.tensor,
    cosines: tl.tensor,
    sines: tl.tensor,
    head: tl.tensor,
    guidance_row: tl.tensor,
    steps: tl.tensor,
    is_step: tl.tensor,
    page_stride: tl.tensor,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_STEPS: tl.constexpr,
    HAS_ROTATION: tl.constexpr,
    IS_INT8: tl.constexpr,
) -> None:
    """Copy keys and values of some steps of a head to the pages that are to have them.

    own: [N, D] places of the queries in memory; saves: of the sequence.
    """
    width: tl.constexpr = HEADS * HEAD_DIM
    slot_width: tl.constexpr = 2 * HEADS * (HEAD_DIM + 4) if IS_INT8 else 2 * width
    save = tl.load(saves + steps // PAGE_STEPS, mask=is_step, other=-1).to(tl.int64)
    is_kept = save >= 0
    key = tl.load(own + width, mask=is_kept[:, None], other=0.0)
    value = tl.load(own + 2 * width, mask=is_kept[:, None], other=0.0)
    if HAS_ROTATION:  # noqa: SIM102 (known at compile time)
        if head == 0:
            key = rotated(key, cosines, sines, steps, is_step, HEAD_DIM)
    slots = kept + save * page_stride + (guidance_row * PAGE_STEPS + steps % PAGE_STEPS) * slot_width
    if IS_INT8:
        key, key_scales = round_steps(key)
        value, value_scales = round_steps(value)
        store_scales(slots, key_scales, is_kept, head, 2 * HEADS, HEAD_DIM)
        store_scales(slots, value_scales, is_kept, HEADS + head, 2 * HEADS, HEAD_DIM)
    places = (slots + head * HEAD_DIM)[:, None] + tl.arange(0, HEAD_DIM)[None, :]
    tl.store(places, key.to(kept.dtype.element_ty), mask=is_kept[:, None])
    tl.store(places + width, value.to(kept.dtype.element_ty), mask=is_kept[:, None])


@triton.jit  # type: ignore[untyped-decorator]
def keep_share(
    x: tl.tensor,
    kept: tl.tensor,
    rows: tl.tensor,
    target: tl.tensor,
    is_last: tl.tensor,
    tile: tl.tensor,
    IN: tl.constexpr,
    TILES: tl.constexpr,
    SHARE: tl.constexpr,
) -> None:
    """Copy the channels of this tile of outputs, one of TILES, from the rows that `is_last` says to `target`."""
    share: tl.constexpr = (IN + TILES - 1) // TILES
    for start in tl.static_range(0, share, SHARE):
        within = start + tl.arange(0, SHARE)
        channels = tile * share + within
        is_kept = is_last[:, None] & ((within < share) & (channels < IN))[None, :]
        values = tl.load(x + rows[:, None] * IN + channels[None, :], mask=is_kept, other=0.0)
        tl.store(kept + target[:, None] + channels[None, :], values.to(kept.dtype.element_ty), mask=is_kept)
