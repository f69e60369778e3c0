"""Sums of a causal convolution of few rows, launched early. Plain version: `flow_conv.py`.

Weights, and what is before the first frame, are loaded before the kernel in front has ended. What follows the sums is
in `flow_conv_split_triton.py`.

Importing this needs Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.flow_conv import ConvExtras, ConvTails, ConvWeights
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
from light_tts.kernels.triton_math import launch_options, take_over

_ROWS = 16  # of a program, the least of a matrix product on tensor cores
_COLUMNS = 16
_SLICES = 4  # of the inputs: taps of the convolution, quarters of those of the shortcut
_FEWEST_ROWS = 64  # up to which warps need not share a multiprocessor with those of the kernels around
_MOST_INPUTS = 256  # what registers hold of the weights of a program's columns


@triton.jit  # type: ignore[untyped-decorator]
def _sums_of_shortcut(
    x: tl.tensor,
    matrix: tl.tensor,
    bias: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    is_row: tl.tensor,
    is_column: tl.tensor,
    IN: tl.constexpr,
    COLUMNS: tl.constexpr,
    SLICES: tl.constexpr,
    OVERLAPS: tl.constexpr,
) -> tl.tensor:
    """A tile of a 1x1 convolution."""
    depth: tl.constexpr = IN // SLICES
    slices = tl.arange(0, SLICES)[:, None, None] * depth
    # The reshape that follows keeps Triton from leaving weights in shared memory.
    halves = tl.arange(0, 2)[None, :, None, None] * (depth // 2) + tl.arange(0, depth // 2)[None, None, :, None]
    vectors = matrix + columns[None, None, None, :] * IN + slices[:, :, :, None]
    weights = tl.load(vectors + halves, mask=is_column[None, None, None, :], other=0.0)
    biases = tl.load(bias + columns, mask=is_column, other=0.0).to(tl.float32)
    take_over(OVERLAPS)
    given_of = x + rows[None, :, None] * IN + slices + tl.arange(0, depth)[None, None, :]
    given = tl.load(given_of, mask=is_row[None, :, None], other=0.0).to(matrix.dtype.element_ty)
    parts = tl.dot(given, tl.reshape(weights, [SLICES, depth, COLUMNS]))
    return tl.sum(parts, axis=0) + biases[None, :]


@triton.jit(do_not_specialize=["num_rows", "num_steps", "num_sequences", "saves_width"])  # type: ignore[untyped-decorator]
def _few_conv_kernel(
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
    SHARE: tl.constexpr,
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
        taps = tl.arange(0, SLICES)[:, None, None]
        halves = tl.arange(0, 2)[None, :, None, None] * (IN // 2) + tl.arange(0, IN // 2)[None, None, :, None]
        vectors = matrix + columns[None, None, None, :] * (TAPS * IN) + taps[:, :, :, None] * IN
        is_weight = (taps < TAPS)[:, :, :, None] & is_column[None, None, None, :]
        weights = tl.load(vectors + halves, mask=is_weight, other=0.0)
        biases = tl.load(bias + columns, mask=is_column, other=0.0).to(tl.float32)
        at = rows_of_tile(first, num_steps, num_sequences, ROWS)
        # Pages and their numbers were written before this call: none of the kernels in front touches them.
        pages = pages_of_rows(last_of, saves, at, is_row, place, saves_width, TAPS, VALUES, PAGE_STEPS)
        source, is_source = frames_of_taps(at, is_row, taps, TAPS)
        is_before = is_source & (source < 0) & has_page_before(at, pages)[None, :, None]
        depth = tl.arange(0, IN)
        before = frames_before(kept, at, pages, source, depth, page_stride, TAPS, IN)
        kept_before = tl.load(before, mask=is_before, other=0.0)
        take_over(OVERLAPS)
        new = new_frames(x, first, at, taps, depth, TAPS, IN)
        # One of the two is zero everywhere.
        given = tl.load(new, mask=is_source & (source >= 0), other=0.0).to(matrix.dtype.element_ty) + kept_before
        target = places_to_keep(at, pages, page_stride, IN)
        keep_share(x, kept, rows, target, pages.save >= 0, tile, IN, column_tiles, SHARE)
        parts = tl.dot(given, tl.reshape(weights, [SLICES, IN, COLUMNS]))
        sums = tl.sum(parts, axis=0) + biases[None, :]
        tl.store(out + places, sums.to(out.dtype.element_ty), mask=is_inside)
    if SHORTCUT_IN > 0:  # noqa: SIM102 (known at compile time)
        if tile >= column_tiles:
            beside = _sums_of_shortcut(
                shortcut, shortcut_matrix, shortcut_bias, rows, columns, is_row, is_column,
                SHORTCUT_IN, COLUMNS, SLICES, OVERLAPS,
            )  # fmt: skip
            tl.store(shortcut_out + places, beside, mask=is_inside)


def takes_conv(weights: ConvWeights, extras: ConvExtras) -> bool:
    """True for inputs whose weights registers hold; of what `can_split` of the whole convolution."""
    inputs = weights.matrix.shape[1] // weights.taps
    is_whole = 32 <= inputs <= _MOST_INPUTS and inputs & (inputs - 1) == 0
    if extras.shortcut is None:
        return is_whole
    beside = extras.shortcut[1].shape[1]
    return is_whole and 32 * _SLICES <= beside <= 2 * _MOST_INPUTS and beside & (beside - 1) == 0


def few_conv_sums(
    x: Tensor,
    weights: ConvWeights,
    tails: ConvTails,
    extras: ConvExtras,
    sums: Tensor,
    beside: Tensor,
    *,
    overlaps: bool,
) -> None:
    """The convolution into `sums` [B, T, out] and its shortcut into `beside`; what `takes_conv`, all contiguous.

    overlaps:  launched before the kernel before has ended; see `triton_math.begin`. That one must not write to the
               tails before the first frame, nor those before it that were launched so.
    """
    batch, steps, inputs = x.shape
    num_rows, outputs = batch * steps, len(weights.matrix)
    column_tiles = ceil_div(outputs, _COLUMNS)
    shortcut, shortcut_matrix, shortcut_bias = extras.shortcut_or(x, weights)
    _few_conv_kernel[(ceil_div(num_rows, _ROWS), column_tiles * (1 if extras.shortcut is None else 2))](
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
        SLICES=_SLICES,
        IN=inputs,
        OUT=outputs,
        SHORTCUT_IN=0 if extras.shortcut is None else shortcut.shape[-1],
        VALUES=tails.kept.shape[2],
        PAGE_STEPS=tails.page_steps,
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
        SHARE=power_of_2(ceil_div(inputs, column_tiles)),
        num_warps=8 if num_rows <= _FEWEST_ROWS else 4,
        **launch_options(num_rows, overlaps),
    )
