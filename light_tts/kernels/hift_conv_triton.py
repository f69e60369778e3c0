"""Implicit matrix products for the vocoder's convolutions, with sums and activation in the epilogue.

Plain version: `hift_conv.py`. Importing this needs Triton. Only the numbers of channels and residuals are compiled in:
lengths, taps, dilations and what the epilogue does else are arguments, so that two dozen compiled kernels serve a whole
network.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.hift_conv import Activation, ConvWeights, Epilogue, Tail
from light_tts.kernels.launch_sizes import ceil_div, power_of_2
from light_tts.kernels.triton_math import sin_pi_squared

_NOTHING, _KINDS = 0, {"none": 1, "leaky": 2, "snake": 3}
_FEW_SUMS = 2**19  # of all rows together: below, smaller tiles keep more multiprocessors busy
_MANY_STEPS = 2**17  # of all rows together: above, larger ones read less
_SNAKE_VALUES, _KEPT_VALUES = 2048, 1024  # that a program takes at a time
_PER_PI = tl.constexpr(1.0 / math.pi)


@triton.jit  # type: ignore[untyped-decorator]
def _products(
    source: tl.tensor,
    earlier: tl.tensor,
    taps: tl.tensor,
    steps: tl.tensor,
    columns: tl.tensor,
    num_in: tl.tensor,
    left: tl.tensor,
    kernel: tl.tensor,
    dilation: tl.tensor,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    HAS_TAIL: tl.constexpr,
    PRECISION: tl.constexpr,
    STEPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> tl.tensor:
    """[STEPS, COLUMNS] sums over all taps and channels of one row."""
    within = tl.arange(0, DEPTH)
    firsts = steps - left
    values_at = source + firsts[:, None] * IN + within[None, :]
    matrices_at = taps + within[:, None] * OUT + columns[None, :]
    products = tl.zeros((STEPS, COLUMNS), dtype=tl.float32)
    parts: tl.constexpr = (IN + DEPTH - 1) // DEPTH
    for index in range(kernel * parts):
        tap = index // parts
        start = index % parts * DEPTH
        places = firsts + tap * dilation
        at = values_at + (tap * dilation * IN + start)
        is_step = places < num_in
        if HAS_TAIL:
            # The type of both is the same, so that one load will do.
            old_at = earlier + (places + left)[:, None] * IN + (start + within)[None, :]
            at = tl.where((places < 0)[:, None], old_at, at)
        else:
            is_step = is_step & (places >= 0)
        wanted = is_step[:, None]
        if IN % DEPTH != 0:
            wanted = wanted & (start + within < IN)[None, :]
        values = tl.load(at, mask=wanted, other=0.0)
        matrix_at = matrices_at + (tap * IN + start) * OUT
        if IN % DEPTH == 0 and OUT % COLUMNS == 0:
            matrix = tl.load(matrix_at)
        else:
            is_inside = (start + within < IN)[:, None] & (columns < OUT)[None, :]
            matrix = tl.load(matrix_at, mask=is_inside, other=0.0)
        products = tl.dot(values, matrix, products, input_precision=PRECISION)
    return products


@triton.jit  # type: ignore[untyped-decorator]
def _keep(
    source: tl.tensor,
    earlier: tl.tensor,
    later: tl.tensor,
    end: tl.tensor,
    width: tl.tensor,
    CHANNELS: tl.constexpr,
    STEPS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    """Write the last `width` steps before the end of one row."""
    parts: tl.constexpr = (CHANNELS + DEPTH - 1) // DEPTH
    for index in range(tl.cdiv(width, STEPS) * parts):
        steps = index // parts * STEPS + tl.arange(0, STEPS)
        channels = index % parts * DEPTH + tl.arange(0, DEPTH)[None, :]
        places = (end - width + steps)[:, None]
        at = tl.where(places < 0, earlier + (places + width) * CHANNELS, source + places * CHANNELS) + channels
        is_inside = (steps < width)[:, None] & (channels < CHANNELS)
        values = tl.load(at, mask=is_inside, other=0.0)
        tl.store(later + steps[:, None] * CHANNELS + channels, values.to(tl.float32), mask=is_inside)


@triton.jit(do_not_specialize=["num_in", "num_out", "left", "kernel", "dilation", "kind", "keeps_sum"])  # type: ignore[untyped-decorator]
def _conv_kernel(
    x: tl.tensor,
    before: tl.tensor,
    after: tl.tensor,
    tail_ends: tl.tensor,
    taps: tl.tensor,
    bias: tl.tensor,
    residual_0: tl.tensor,
    residual_1: tl.tensor,
    residual_2: tl.tensor,
    alpha: tl.tensor,
    inverse: tl.tensor,
    ends: tl.tensor,
    total: tl.tensor,
    activated: tl.tensor,
    num_in: tl.tensor,
    num_out: tl.tensor,
    left: tl.tensor,
    before_stride: tl.tensor,
    after_stride: tl.tensor,
    scale: tl.tensor,
    slope: tl.tensor,
    kernel: tl.tensor,
    dilation: tl.tensor,
    kind: tl.tensor,
    keeps_sum: tl.tensor,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    RESIDUALS: tl.constexpr,
    HAS_TAIL: tl.constexpr,
    HAS_ENDS: tl.constexpr,
    PRECISION: tl.constexpr,
    STEPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    row = tl.program_id(2).to(tl.int64)
    steps = tl.program_id(0) * STEPS + tl.arange(0, STEPS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = columns < OUT
    source = x + row * num_in * IN
    earlier = before + row * before_stride
    if HAS_TAIL:  # noqa: SIM102  # only alone it is left out by the compiler
        if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
            _keep(source, earlier, after + row * after_stride, tl.load(tail_ends + row), left, IN, STEPS, DEPTH)
    products = _products(
        source, earlier, taps, steps, columns, num_in, left, kernel, dilation,
        IN, OUT, HAS_TAIL, PRECISION, STEPS, COLUMNS, DEPTH,
    )  # fmt: skip
    result = products + tl.load(bias + columns, mask=is_column, other=0.0)[None, :]
    places_out = row * num_out * OUT + steps[:, None] * OUT + columns[None, :]
    is_inside = (steps < num_out)[:, None] & is_column[None, :]
    # Their number is compiled in: what a mask keeps away still takes registers, and with them programs at a time.
    if RESIDUALS > 0:
        result += tl.load(residual_0 + places_out, mask=is_inside, other=0.0).to(tl.float32)
    if RESIDUALS > 1:
        result += tl.load(residual_1 + places_out, mask=is_inside, other=0.0).to(tl.float32)
    if RESIDUALS > 2:
        result += tl.load(residual_2 + places_out, mask=is_inside, other=0.0).to(tl.float32)
    result = result * scale
    if HAS_ENDS:
        end = tl.load(ends + row)
        result = tl.where((steps < end)[:, None], result, 0.0)
    if keeps_sum > 0:
        tl.store(total + places_out, result.to(total.dtype.element_ty), mask=is_inside)
    if kind > 0:
        if kind == 2:
            result = tl.where(result > 0.0, result, result * slope)
        if kind == 3:
            frequency = tl.load(alpha + columns, mask=is_column, other=0.0)[None, :]
            gain = tl.load(inverse + columns, mask=is_column, other=0.0)[None, :]
            result = result + sin_pi_squared(result * (frequency * _PER_PI)) * gain
        tl.store(activated + places_out, result.to(activated.dtype.element_ty), mask=is_inside)


@triton.jit(do_not_specialize=["num_steps", "width"])  # type: ignore[untyped-decorator]
def _keep_kernel(
    x: tl.tensor,
    before: tl.tensor,
    after: tl.tensor,
    ends: tl.tensor,
    num_steps: tl.tensor,
    before_stride: tl.tensor,
    after_stride: tl.tensor,
    width: tl.tensor,
    CHANNELS: tl.constexpr,
    STEPS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    source, earlier = x + row * num_steps * CHANNELS, before + row * before_stride
    _keep(source, earlier, after + row * after_stride, tl.load(ends + row), width, CHANNELS, STEPS, DEPTH)


@triton.jit(do_not_specialize=["num_steps"])  # type: ignore[untyped-decorator]
def _snakes_kernel(
    x: tl.tensor,
    alphas: tl.tensor,
    inverses: tl.tensor,
    out: tl.tensor,
    num_steps: tl.tensor,
    CHANNELS: tl.constexpr,
    NUMBER: tl.constexpr,
    STEPS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    steps = tl.program_id(0) * STEPS + tl.arange(0, STEPS)
    channels = tl.arange(0, WIDTH)
    is_channel = channels < CHANNELS
    is_inside = (steps < num_steps)[:, None] & is_channel[None, :]
    places = steps.to(tl.int64)[:, None] * CHANNELS + channels[None, :]
    values = tl.load(x + places, mask=is_inside, other=0.0).to(tl.float32)
    for index in tl.static_range(NUMBER):
        frequency = tl.load(alphas + index * CHANNELS + channels, mask=is_channel, other=0.0)[None, :]
        gain = tl.load(inverses + index * CHANNELS + channels, mask=is_channel, other=0.0)[None, :]
        result = values + sin_pi_squared(values * (frequency * _PER_PI)) * gain
        out_at = out + index * num_steps.to(tl.int64) * CHANNELS + places
        tl.store(out_at, result.to(out.dtype.element_ty), mask=is_inside)


def conv(
    x: Tensor, weights: ConvWeights, epilogue: Epilogue, *, left: int = 0, right: int = 0, tail: Tail | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """See `conv_plain`; x and residuals must be contiguous.

    float32 is multiplied in TF32 where torch may do that in convolutions (`torch.backends.cudnn.allow_tf32`).
    """
    batch, num_in, channels_in = x.shape
    kernel, _, channels_out = weights.taps.shape
    num_out = num_in + left + right - (kernel - 1) * weights.dilation
    shape = (batch, num_out, channels_out)
    assert x.is_contiguous()
    total = torch.empty(shape, dtype=epilogue.sum_dtype, device=x.device) if epilogue.keeps_sum else None
    wanted = epilogue.activation
    activated = None if wanted is None else torch.empty(shape, dtype=wanted.dtype, device=x.device)
    # What is not there has the type that stands there elsewhere, so that nothing is compiled twice.
    unused = weights.bias
    residuals = [*epilogue.residuals, x, x, x][:3]
    snake = wanted if wanted is not None and wanted.kind == "snake" else Activation()
    tile = _tile(batch * num_out, channels_in, channels_out, weights.taps.element_size())
    _conv_kernel[(ceil_div(num_out, tile.steps), ceil_div(channels_out, tile.columns), batch)](
        x,
        x if tail is None else tail.before,
        unused if tail is None else tail.after,
        unused if tail is None else tail.ends,
        weights.taps,
        weights.bias,
        *residuals,
        unused if snake.alpha is None else snake.alpha,
        unused if snake.inverse is None else snake.inverse,
        unused if epilogue.ends is None else epilogue.ends,
        x if total is None else total,
        x if activated is None else activated,
        num_in,
        num_out,
        left,
        0 if tail is None else tail.before.stride(0),
        0 if tail is None else tail.after.stride(0),
        epilogue.scale,
        0.0 if wanted is None else wanted.slope,
        kernel,
        weights.dilation,
        _NOTHING if wanted is None else _KINDS[wanted.kind],
        int(epilogue.keeps_sum),
        IN=channels_in,
        OUT=channels_out,
        RESIDUALS=len(epilogue.residuals),
        HAS_TAIL=tail is not None,
        HAS_ENDS=epilogue.ends is not None,
        PRECISION="tf32" if torch.backends.cudnn.allow_tf32 else "ieee",
        STEPS=tile.steps,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        num_warps=4,
        num_stages=tile.stages,
    )
    return total, activated


def keep(x: Tensor, tail: Tail) -> None:
    """See `keep_plain`; x must be contiguous."""
    batch, num_steps, channels = x.shape
    assert x.is_contiguous()
    depth = min(64, power_of_2(channels))
    _keep_kernel[(batch,)](
        x,
        *tail,
        num_steps,
        tail.before.stride(0),
        tail.after.stride(0),
        tail.before.shape[1],
        CHANNELS=channels,
        STEPS=_KEPT_VALUES // depth,
        DEPTH=depth,
    )


def snakes(x: Tensor, alphas: Tensor, inverses: Tensor, dtype: torch.dtype) -> Tensor:
    """See `snakes_plain`; all inputs must be contiguous."""
    number, channels = alphas.shape
    out = torch.empty((number, *x.shape), dtype=dtype, device=x.device)
    num_steps, width = x.numel() // channels, power_of_2(channels)
    steps = max(1, _SNAKE_VALUES // width)
    _snakes_kernel[(ceil_div(num_steps, steps),)](
        x, alphas, inverses, out, num_steps, CHANNELS=channels, NUMBER=number, STEPS=steps, WIDTH=width
    )
    return out


class _Tile(NamedTuple):
    """Steps and outputs of a program, inputs that it takes at a time, and for how many times loads run ahead."""

    steps: int
    columns: int
    depth: int
    stages: int


def _tile(num_steps: int, channels_in: int, channels_out: int, value_bytes: int) -> _Tile:
    """The fastest for so many steps of all rows (measured on an H100), within what every GPU has of shared memory."""
    columns = _ceiled(channels_out)
    depth = min(64 if value_bytes == 2 else 32, _ceiled(channels_in))
    has_few = num_steps * channels_out <= _FEW_SUMS
    if value_bytes == 4:
        if columns <= 32:
            return _Tile(64, columns, depth, 3)
        return _Tile(32, 64, depth, 4) if has_few or columns == 64 else _Tile(64, 128, depth, 3)
    if columns <= 64:
        return _Tile(128 if num_steps > _MANY_STEPS else 64, columns, depth, 3)
    return _Tile(64, 64, depth, 4) if has_few else _Tile(64, 128, depth, 3)


def _ceiled(channels: int) -> int:
    """The next power of two that a product takes."""
    return max(16, 1 << (channels - 1).bit_length())
