"""Where the rows of a tile of a causal convolution lie: their sequences and pages, and the frames under their taps.

A tile lies in one batch row or in two neighbours, which `flow_conv_split_triton.can_split` asks for: what is looked up
of a sequence is then two numbers for all rows, not one for each. Nothing is loaded here but numbers of pages.

Importing this needs Triton.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl


class TileRows(NamedTuple):
    """Rows of a tile.

    offset:   [N], from the first one.
    step:     [N], within the sequence.
    is_next:  [N], in the second of both batch rows.
    sequence, guidance_row:            of the first batch row.
    next_sequence, next_guidance_row:  of the second.
    """

    offset: tl.tensor
    step: tl.tensor
    is_next: tl.tensor
    sequence: tl.tensor
    guidance_row: tl.tensor
    next_sequence: tl.tensor
    next_guidance_row: tl.tensor


class TilePages(NamedTuple):
    """Pages of a tile by their numbers, -1: none.

    last, next_last:        before the first frame, of the first batch row and of the second.
    in_page, next_in_page:  where in a page what is kept of them begins.
    save:                   [N], the page that is to keep a row.
    in_chunk:               [N], which of the rows it keeps this is; below 0: none of them.
    """

    last: tl.tensor
    next_last: tl.tensor
    in_page: tl.tensor
    next_in_page: tl.tensor
    save: tl.tensor
    in_chunk: tl.tensor


@triton.jit  # type: ignore[untyped-decorator]
def rows_of_tile(first: tl.tensor, num_steps: tl.tensor, num_sequences: tl.tensor, ROWS: tl.constexpr) -> TileRows:
    """Rows from `first` on, of batch rows of `num_steps` each."""
    offset = tl.arange(0, ROWS)
    batch = first // num_steps
    step = first - batch * num_steps + offset
    is_next = step >= num_steps
    step -= tl.where(is_next, num_steps, 0)
    guidance_row = batch // num_sequences
    sequence = batch - guidance_row * num_sequences
    is_last = sequence + 1 == num_sequences
    next_sequence = tl.where(is_last, 0, sequence + 1)
    next_guidance_row = tl.where(is_last, guidance_row + 1, guidance_row)
    return TileRows(offset, step, is_next, sequence, guidance_row, next_sequence, next_guidance_row)


@triton.jit  # type: ignore[untyped-decorator]
def pages_of_rows(
    last_of: tl.tensor,
    saves: tl.tensor,
    at: TileRows,
    is_row: tl.tensor,
    place: tl.tensor,
    saves_width: tl.tensor,
    TAPS: tl.constexpr,
    VALUES: tl.constexpr,
    PAGE_STEPS: tl.constexpr,
) -> TilePages:
    """The pages before a tile and those that keep its rows; last_of, saves, place, VALUES: see `ConvTails`."""
    last = tl.load(last_of + at.sequence)
    next_last = tl.load(last_of + at.next_sequence)
    in_page = at.guidance_row * VALUES + place
    next_in_page = at.next_guidance_row * VALUES + place
    in_chunk = at.step % PAGE_STEPS - (PAGE_STEPS - (TAPS - 1))
    save_row = tl.where(at.is_next, at.next_sequence, at.sequence) * saves_width
    save = tl.load(saves + save_row + at.step // PAGE_STEPS, mask=is_row & (in_chunk >= 0), other=-1)
    return TilePages(last, next_last, in_page, next_in_page, save, in_chunk)


@triton.jit  # type: ignore[untyped-decorator]
def has_page_before(at: TileRows, pages: TilePages) -> tl.tensor:
    """[N], whether what is before the first frame of a row's sequence was kept; else it is zero."""
    return tl.where(at.is_next, pages.next_last, pages.last) >= 0


@triton.jit  # type: ignore[untyped-decorator]
def frames_of_taps(at: TileRows, is_row: tl.tensor, taps: tl.tensor, TAPS: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Steps [S, N, 1] of the frames under taps [S, 1, 1], below 0: before the first; and whether there is one."""
    source = at.step[None, :, None] + (taps - (TAPS - 1))
    return source, is_row[None, :, None] & (taps < TAPS)


@triton.jit  # type: ignore[untyped-decorator]
def new_frames(
    x: tl.tensor,
    first: tl.tensor,
    at: TileRows,
    taps: tl.tensor,
    channels: tl.tensor,
    TAPS: tl.constexpr,
    IN: tl.constexpr,
) -> tl.tensor:
    """Places [S, N, D] in x of channels [D] of the frames under taps [S, 1, 1]."""
    return x + first * IN + (at.offset[None, :, None] + (taps - (TAPS - 1))) * IN + channels[None, None, :]


@triton.jit  # type: ignore[untyped-decorator]
def frames_before(
    kept: tl.tensor,
    at: TileRows,
    pages: TilePages,
    source: tl.tensor,
    channels: tl.tensor,
    page_stride: tl.tensor,
    TAPS: tl.constexpr,
    IN: tl.constexpr,
) -> tl.tensor:
    """Places [S, N, D] in pages of channels [D] of frames before the first; source: see `frames_of_taps`."""
    page = pages.last.to(tl.int64) * page_stride + pages.in_page
    next_page = pages.next_last.to(tl.int64) * page_stride + pages.next_in_page
    before = kept + tl.where(at.is_next, next_page, page)[None, :, None]
    return before + ((source + (TAPS - 1)) * IN + channels[None, None, :])


@triton.jit  # type: ignore[untyped-decorator]
def places_to_keep(at: TileRows, pages: TilePages, page_stride: tl.tensor, IN: tl.constexpr) -> tl.tensor:
    """Where a row is kept, [N] int64 from the first page on; of rows that have a page to be kept in."""
    page = pages.save.to(tl.int64) * page_stride
    return page + tl.where(at.is_next, pages.next_in_page, pages.in_page) + pages.in_chunk * IN
