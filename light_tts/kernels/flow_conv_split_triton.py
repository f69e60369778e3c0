"""A causal convolution of few rows: its outputs are shared among programs. Plain version: `flow_conv.py`.

A program that holds all outputs of some frames, as the norm needs, reads all weights by itself: with few rows that is
most of the time. Here each program computes some outputs of 16 frames, all of its loads on their way at once, and a
second kernel does what needs all outputs of a frame.

Importing this needs Triton.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.flow_conv import ConvExtras, ConvTails, ConvWeights
from light_tts.kernels.flow_conv_few_triton import few_conv_sums, takes_conv
from light_tts.kernels.flow_conv_rows_triton import (
    frames_before,
    frames_of_taps,
    has_page_before,
    new_frames,
    pages_of_rows,
    places_to_keep,
    rows_of_tile,
)
from light_tts.kernels.flow_pages_triton import keep_share
from light_tts.kernels.launch_sizes import ceil_div, power_of_2
from light_tts.kernels.triton_math import begin, begin_with_rows, has_large_shared_memory, launch_options, mish

_ROWS = 16  # of a program, the least of a matrix product on tensor cores
_MOST_TAPS = 4
_MOST_ROWS = 256  # with more, there are more programs than multiprocessors


class _Tile(NamedTuple):
    """Outputs of a program, channels of one step of its loop, pipeline stages."""

    columns: int
    depth: int
    stages: int


@triton.jit  # type: ignore[untyped-decorator]
def _sums_of_frames(
    x: tl.tensor,
    matrix: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    is_row: tl.tensor,
    is_column: tl.tensor,
    IN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
) -> tl.tensor:
    """A tile of a 1x1 convolution, without its bias."""
    depth = tl.arange(0, DEPTH)
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in tl.range(0, IN, DEPTH, num_stages=STAGES):
        channels = start + depth
        is_channel = channels < IN
        given = tl.load(
            x + rows[:, None] * IN + channels[None, :], mask=is_row[:, None] & is_channel[None, :], other=0.0
        )
        vectors = matrix + columns[None, :] * IN + channels[:, None]
        weights = tl.load(vectors, mask=is_column[None, :] & is_channel[:, None], other=0.0)
        sums = tl.dot(given.to(matrix.dtype.element_ty), weights, sums)
    return sums


@triton.jit(do_not_specialize=["num_rows", "num_steps", "num_sequences", "saves_width"])  # type: ignore[untyped-decorator]
def _split_conv_kernel(
    x: tl.tensor,
    matrix: tl.tensor,
    bias: tl.tensor,
    shortcut: tl.tensor,
    shortcut_matrix: tl.tensor,
    shortcut_bias: tl.tensor,
    kept: tl.tensor,
    last_of: tl.tensor,
    saves: tl.tensor,
    out: tl.tensor,
    shortcut_out: tl.tensor,
    num_rows: tl.tensor,
    num_steps: tl.tensor,
    num_sequences: tl.tensor,
    page_stride: tl.tensor,
    place: tl.tensor,
    saves_width: tl.tensor,
    TAPS: tl.constexpr,
    SLICES: tl.constexpr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    SHORTCUT_IN: tl.constexpr,
    VALUES: tl.constexpr,
    PAGE_STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
    SHARE: tl.constexpr,
    LINES: tl.constexpr,
    OVERLAPS: tl.constexpr,
) -> None:
    first = tl.program_id(0) * ROWS
    rows = first + tl.arange(0, ROWS)
    is_row = rows < num_rows
    column_tiles: tl.constexpr = (OUT + COLUMNS - 1) // COLUMNS
    tile = tl.program_id(1)
    columns = tile % column_tiles * COLUMNS + tl.arange(0, COLUMNS)
    is_column = columns < OUT
    is_inside = is_row[:, None] & is_column[None, :]
    places = rows[:, None] * OUT + columns[None, :]
    if tile < column_tiles:
        at = rows_of_tile(first, num_steps, num_sequences, ROWS)
        begin_with_rows(matrix, tl.minimum(columns, OUT - 1), TAPS * IN, LINES, OVERLAPS)
        pages = pages_of_rows(last_of, saves, at, is_row, place, saves_width, TAPS, VALUES, PAGE_STEPS)
        taps = tl.arange(0, SLICES)[:, None, None]
        source, is_source = frames_of_taps(at, is_row, taps, TAPS)
        is_new = is_source & (source >= 0)
        is_before = is_source & (source < 0) & has_page_before(at, pages)[None, :, None]
        depth = tl.arange(0, DEPTH)
        new = new_frames(x, first, at, taps, depth, TAPS, IN)
        before = frames_before(kept, at, pages, source, depth, page_stride, TAPS, IN)
        of_tap = matrix + columns[None, None, :] * (TAPS * IN) + taps * IN + depth[None, :, None]
        is_weight = (taps < TAPS) & is_column[None, None, :]
        parts = tl.zeros([SLICES, ROWS, COLUMNS], tl.float32)
        for start in tl.range(0, IN, DEPTH, num_stages=STAGES):
            # Weights first: what is before the first frame has to wait for its page.
            if IN % DEPTH == 0:
                weights = tl.load(of_tap + start, mask=is_weight, other=0.0)
                given = tl.load(new + start, mask=is_new, other=0.0)
                kept_before = tl.load(before + start, mask=is_before, other=0.0)
            else:
                is_input = start + depth < IN
                weights = tl.load(of_tap + start, mask=is_weight & is_input[None, :, None], other=0.0)
                given = tl.load(new + start, mask=is_new & is_input[None, None, :], other=0.0)
                kept_before = tl.load(before + start, mask=is_before & is_input[None, None, :], other=0.0)
            # One of the two is zero everywhere.
            given = given.to(matrix.dtype.element_ty) + kept_before
            parts = tl.dot(given, weights, parts)
        target = places_to_keep(at, pages, page_stride, IN)
        keep_share(x, kept, rows, target, pages.save >= 0, tile, IN, column_tiles, SHARE)
        sums = tl.sum(parts, axis=0) + tl.load(bias + columns, mask=is_column, other=0.0).to(tl.float32)[None, :]
        tl.store(out + places, sums.to(out.dtype.element_ty), mask=is_inside)
    if SHORTCUT_IN > 0:  # noqa: SIM102 (known at compile time)
        if tile >= column_tiles:
            begin(OVERLAPS)
            total = _sums_of_frames(
                shortcut, shortcut_matrix, rows, columns, is_row, is_column, SHORTCUT_IN, ROWS, COLUMNS, DEPTH, STAGES
            )
            total += tl.load(shortcut_bias + columns, mask=is_column, other=0.0).to(tl.float32)[None, :]
            tl.store(shortcut_out + places, total, mask=is_inside)


@triton.jit  # type: ignore[untyped-decorator]
def _finish_kernel(
    sums: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    added: tl.tensor,
    shortcut: tl.tensor,
    residual: tl.tensor,
    out: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_MISH: tl.constexpr,
    HAS_ADDED: tl.constexpr,
    HAS_SHORTCUT: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    OVERLAPS: tl.constexpr,
) -> None:
    """What follows the sums [M, WIDTH] of a convolution, in the order of `ConvExtras`. One row per program."""
    columns = tl.arange(0, BLOCK)
    is_column = columns < WIDTH
    places = tl.program_id(0) * WIDTH + columns
    if HAS_NORM:
        weight = tl.load(norm_weight + columns, mask=is_column, other=0.0)
        shift = tl.load(norm_bias + columns, mask=is_column, other=0.0)
    begin(OVERLAPS)
    result = tl.load(sums + places, mask=is_column, other=0.0)
    if HAS_SHORTCUT:
        beside = tl.load(shortcut + places, mask=is_column, other=0.0)
    if HAS_ADDED:
        constant = tl.load(added + columns, mask=is_column, other=0.0)
    if HAS_RESIDUAL:
        rest = tl.load(residual + places, mask=is_column, other=0.0)
    if HAS_NORM:
        mean = tl.sum(result, axis=0) / WIDTH
        centred = tl.where(is_column, result - mean, 0.0)
        scale = tl.rsqrt(tl.sum(centred * centred, axis=0) / WIDTH + eps)
        result = centred * scale * weight + shift
    if HAS_MISH:
        result = mish(result)
    if HAS_ADDED:
        result += constant
    if HAS_SHORTCUT:
        result += beside
    if HAS_RESIDUAL:
        result += rest
    tl.store(out + places, result.to(out.dtype.element_ty), mask=is_column)


def can_split(x: Tensor, weights: ConvWeights) -> bool:
    """True for few rows, where a tile lies in no more than two batch rows, and taps that fit into shared memory."""
    batch, steps, _ = x.shape
    is_narrow = weights.groups == 1 and weights.taps <= _MOST_TAPS and weights.matrix.element_size() == 2
    return is_narrow and batch * steps <= _MOST_ROWS and steps >= _ROWS


def _tile(num_rows: int, is_large: bool) -> _Tile:
    """The fastest on an H100: all channels of a tile on their way at once; is_large: see `has_large_shared_memory`."""
    if not is_large:
        return _Tile(16, 64, 3)
    return _Tile(16, 128, 3) if num_rows <= 128 else _Tile(32, 64, 5)


def _split_conv_sums(
    x: Tensor,
    weights: ConvWeights,
    tails: ConvTails,
    extras: ConvExtras,
    sums: Tensor,
    beside: Tensor,
    *,
    overlaps: bool,
) -> None:
    """Sums of the convolution, and of the shortcut beside it."""
    batch, steps, inputs = x.shape
    num_rows, outputs = batch * steps, len(weights.matrix)
    shortcut, shortcut_matrix, shortcut_bias = extras.shortcut_or(x, weights)
    tile = _tile(num_rows, has_large_shared_memory(x.device))
    column_tiles = ceil_div(outputs, tile.columns)
    depth = min(tile.depth, max(16, power_of_2(inputs)))
    _split_conv_kernel[(ceil_div(num_rows, _ROWS), column_tiles * (1 if extras.shortcut is None else 2))](
        x,
        weights.matrix,
        weights.bias,
        shortcut,
        shortcut_matrix,
        shortcut_bias,
        tails.kept,
        tails.last,
        tails.saves,
        sums,
        beside,
        num_rows,
        steps,
        tails.last.shape[0],
        tails.kept.stride(0),
        tails.place,
        tails.saves.shape[1],
        TAPS=weights.taps,
        SLICES=power_of_2(weights.taps),
        IN=inputs,
        OUT=outputs,
        SHORTCUT_IN=0 if extras.shortcut is None else shortcut.shape[-1],
        VALUES=tails.kept.shape[2],
        PAGE_STEPS=tails.page_steps,
        ROWS=_ROWS,
        COLUMNS=tile.columns,
        DEPTH=depth,
        STAGES=tile.stages,
        SHARE=min(depth, power_of_2(ceil_div(inputs, column_tiles))),
        LINES=power_of_2(ceil_div(weights.taps * inputs, 64)),
        num_warps=4,
        **launch_options(num_rows, overlaps),
    )


def split_conv(
    x: Tensor, weights: ConvWeights, tails: ConvTails, extras: ConvExtras, dtype: torch.dtype, *, overlaps: bool
) -> Tensor:
    """See `paged_conv_plain`; what `can_split`, everything contiguous, `kept` within its pages.

    overlaps:  launched before the kernel before has ended; see `triton_math.begin`.
    """
    batch, steps, _ = x.shape
    num_rows, outputs = batch * steps, len(weights.matrix)
    is_finished = weights.norm is None and not extras.mish and all(part is None for part in extras[1:])
    out = torch.empty(batch, steps, outputs, dtype=dtype, device=x.device)
    sums = out if is_finished else torch.empty(batch, steps, outputs, dtype=torch.float32, device=x.device)
    beside = sums if extras.shortcut is None else torch.empty_like(sums)
    launch = launch_options(num_rows, overlaps)
    if takes_conv(weights, extras):
        few_conv_sums(x, weights, tails, extras, sums, beside, overlaps=overlaps)
    else:
        _split_conv_sums(x, weights, tails, extras, sums, beside, overlaps=overlaps)
    if is_finished:
        return out
    norm_weight, norm_bias, eps = (weights.bias, weights.bias, 0.0) if weights.norm is None else weights.norm
    _finish_kernel[(num_rows,)](
        sums,
        norm_weight,
        norm_bias,
        norm_weight if extras.added is None else extras.added,
        beside,
        out if extras.residual is None else extras.residual,
        out,
        eps,
        WIDTH=outputs,
        BLOCK=power_of_2(outputs),
        HAS_NORM=weights.norm is not None,
        HAS_MISH=extras.mish,
        HAS_ADDED=extras.added is not None,
        HAS_SHORTCUT=extras.shortcut is not None,
        HAS_RESIDUAL=extras.residual is not None,
        num_warps=1,
        **launch,
    )
    return out
