"""A causal convolution as an implicit matrix product, norm, Mish and additions inside. Plain version: `flow_conv.py`.

Importing this needs Triton. A program computes some frames and all outputs of a group, since the norm needs them all.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.flow_conv import ConvExtras, ConvTails, ConvWeights
from light_tts.kernels.flow_conv_split_triton import can_split, split_conv
from light_tts.kernels.launch_sizes import ceil_div, power_of_2
from light_tts.kernels.triton_math import has_large_shared_memory, mish, precision_of

# Up to so many rows, small tiles keep more multiprocessors busy; each group of channels has programs of its own.
_FEW_ROWS = 3150
_FEW_GROUPED_ROWS = 150


@triton.jit(do_not_specialize=["num_rows", "num_steps", "num_sequences", "saves_width"])  # type: ignore[untyped-decorator]
def _conv_kernel(
    x: tl.tensor,
    matrix: tl.tensor,
    bias: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    added: tl.tensor,
    shortcut: tl.tensor,
    shortcut_matrix: tl.tensor,
    shortcut_bias: tl.tensor,
    residual: tl.tensor,
    kept: tl.tensor,
    last_of: tl.tensor,
    saves: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    num_steps: tl.tensor,
    num_sequences: tl.tensor,
    page_stride: tl.tensor,
    place: tl.tensor,
    saves_width: tl.tensor,
    eps: tl.tensor,
    TAPS: tl.constexpr,
    GROUPS: tl.constexpr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_MISH: tl.constexpr,
    HAS_ADDED: tl.constexpr,
    SHORTCUT_IN: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    VALUES: tl.constexpr,
    PAGE_STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(1)
    is_row = rows < num_rows
    batch = rows // num_steps
    step = rows % num_steps
    sequence = batch % num_sequences
    guidance_row = batch // num_sequences
    left: tl.constexpr = TAPS - 1
    width: tl.constexpr = GROUPS * IN
    blocks: tl.constexpr = (IN + DEPTH - 1) // DEPTH
    columns = tl.arange(0, COLUMNS)
    is_column = columns < OUT
    outputs = group * OUT + columns
    channels = tl.arange(0, DEPTH)

    last = tl.load(last_of + sequence, mask=is_row, other=-1).to(tl.int64)
    kept_row = last * page_stride + guidance_row * VALUES + place
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for block in range(0, TAPS * blocks):
        tap = block // blocks
        inputs = block % blocks * DEPTH + channels
        source = step + tap - left
        is_input = inputs < IN  # always, where the depth divides the inputs
        is_new = is_row & (source >= 0)
        new = (rows + tap - left).to(tl.int64)[:, None] * width + group * IN + inputs[None, :]
        tile = tl.load(x + new, mask=is_new[:, None] & is_input[None, :], other=0.0).to(matrix.dtype.element_ty)
        # One of the two is zero everywhere.
        is_before = is_row & (source < 0) & (last >= 0)
        before = kept_row[:, None] + (source + left)[:, None] * width + group * IN + inputs[None, :]
        tile += tl.load(kept + before, mask=is_before[:, None] & is_input[None, :], other=0.0)
        weights = tl.load(
            matrix + outputs[None, :] * (TAPS * IN) + (tap * IN + inputs)[:, None],
            mask=is_column[None, :] & is_input[:, None],
            other=0.0,
        )
        sums = tl.dot(tile, weights, sums, input_precision=PRECISION)

    sums += tl.load(bias + outputs, mask=is_column, other=0.0).to(tl.float32)[None, :]
    if HAS_NORM:
        mean = tl.sum(tl.where(is_column[None, :], sums, 0.0), axis=1) / OUT
        centred = tl.where(is_column[None, :], sums - mean[:, None], 0.0)
        scale = tl.rsqrt(tl.sum(centred * centred, axis=1) / OUT + eps)
        weight = tl.load(norm_weight + columns, mask=is_column, other=0.0)
        shift = tl.load(norm_bias + columns, mask=is_column, other=0.0)
        sums = centred * scale[:, None] * weight[None, :] + shift[None, :]
    if HAS_MISH:
        sums = mish(sums)
    if HAS_ADDED:
        sums += tl.load(added + outputs, mask=is_column, other=0.0)[None, :]
    if SHORTCUT_IN > 0:
        for start in range(0, SHORTCUT_IN, DEPTH):
            inputs = start + channels
            offsets = rows.to(tl.int64)[:, None] * SHORTCUT_IN + inputs[None, :]
            is_input = inputs < SHORTCUT_IN
            tile = tl.load(shortcut + offsets, mask=is_row[:, None] & is_input[None, :], other=0.0)
            weights = tl.load(
                shortcut_matrix + outputs[None, :] * SHORTCUT_IN + inputs[:, None],
                mask=is_column[None, :] & is_input[:, None],
                other=0.0,
            )
            tile = tile.to(matrix.dtype.element_ty)
            sums = tl.dot(tile, weights, sums, input_precision=PRECISION)
        sums += tl.load(shortcut_bias + outputs, mask=is_column, other=0.0).to(tl.float32)[None, :]
    is_inside = is_row[:, None] & is_column[None, :]
    places = rows.to(tl.int64)[:, None] * (GROUPS * OUT) + outputs[None, :]
    if HAS_RESIDUAL:
        sums += tl.load(residual + places, mask=is_inside, other=0.0)
    tl.store(out + places, sums.to(out.dtype.element_ty), mask=is_inside)

    # The last inputs of every chunk that has a page.
    in_chunk = step % PAGE_STEPS - (PAGE_STEPS - left)
    save = tl.load(saves + sequence * saves_width + step // PAGE_STEPS, mask=is_row & (in_chunk >= 0), other=-1)
    target = save.to(tl.int64) * page_stride + guidance_row * VALUES + place + in_chunk * width + group * IN
    for start in range(0, IN, DEPTH):
        inputs = start + channels
        is_kept = (save >= 0)[:, None] & (inputs < IN)[None, :]
        tile = tl.load(x + rows.to(tl.int64)[:, None] * width + group * IN + inputs[None, :], mask=is_kept, other=0.0)
        tl.store(kept + target[:, None] + inputs[None, :], tile.to(kept.dtype.element_ty), mask=is_kept)


def _depth(inputs: int, shortcut_inputs: int) -> int:
    """Inputs of one step of the product; best where they divide the channels."""
    return next((depth for depth in (64, 32) if inputs % depth == 0 and shortcut_inputs % depth == 0), 16)


def paged_conv(
    x: Tensor,
    weights: ConvWeights,
    tails: ConvTails,
    extras: ConvExtras,
    dtype: torch.dtype,
    *,
    overlaps: bool = False,
) -> Tensor:
    """See `paged_conv_plain`; everything contiguous, `kept` within its pages.

    overlaps:  few rows are launched before the kernel before has ended; see `triton_math.begin`.
    """
    if can_split(x, weights):
        return split_conv(x, weights, tails, extras, dtype, overlaps=overlaps)
    batch, steps, channels = x.shape
    num_rows, inputs, outputs = batch * steps, channels // weights.groups, len(weights.matrix) // weights.groups
    shortcut, shortcut_matrix, shortcut_bias = extras.shortcut_or(x, weights)
    shortcut_inputs = 0 if extras.shortcut is None else shortcut.shape[-1]
    depth = _depth(inputs, shortcut_inputs)
    norm_weight, norm_bias, eps = (weights.bias, weights.bias, 0.0) if weights.norm is None else weights.norm
    out = torch.empty(batch, steps, len(weights.matrix), dtype=dtype, device=x.device)
    if num_rows <= (_FEW_ROWS if weights.groups == 1 else _FEW_GROUPED_ROWS):
        tile_rows, warps = 16, 4
    else:
        tile_rows, warps = 64, 8 if weights.groups == 1 else 4
        depth = min(depth, 64 if has_large_shared_memory(x.device) else 32)
    _conv_kernel[(ceil_div(num_rows, tile_rows), weights.groups)](
        x,
        weights.matrix,
        weights.bias,
        norm_weight,
        norm_bias,
        norm_weight if extras.added is None else extras.added,
        shortcut,
        shortcut_matrix,
        shortcut_bias,
        out if extras.residual is None else extras.residual,
        tails.kept,
        tails.last,
        tails.saves,
        out,
        num_rows,
        steps,
        tails.last.shape[0],
        tails.kept.stride(0),
        tails.place,
        tails.saves.shape[1],
        eps,
        TAPS=weights.taps,
        GROUPS=weights.groups,
        IN=inputs,
        OUT=outputs,
        HAS_NORM=weights.norm is not None,
        HAS_MISH=extras.mish,
        HAS_ADDED=extras.added is not None,
        SHORTCUT_IN=shortcut_inputs,
        HAS_RESIDUAL=extras.residual is not None,
        VALUES=tails.kept.shape[2],
        PAGE_STEPS=tails.page_steps,
        ROWS=tile_rows,
        COLUMNS=max(16, power_of_2(outputs)),
        DEPTH=depth,
        PRECISION=precision_of(weights.matrix.dtype),
        num_warps=warps,
        num_stages=3,
    )
    return out
