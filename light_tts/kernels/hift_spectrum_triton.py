"""The vocoder's spectrum and its inverse transform, a kernel each. Plain version: `hift_spectrum.py`.

Importing this needs Triton.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.launch_sizes import ceil_div, power_of_2
from light_tts.kernels.triton_math import sin_turns

_SPECTRUM_STEPS, _HOPS = 64, 128  # of a program
_PER_TURN = tl.constexpr(0.5 / math.pi)


@triton.jit(do_not_specialize=["num_steps"])  # type: ignore[untyped-decorator]
def _spectrum_kernel(
    post: tl.tensor,
    ends: tl.tensor,
    out: tl.tensor,
    num_steps: tl.tensor,
    max_magnitude: tl.tensor,
    BINS: tl.constexpr,
    WIDTH: tl.constexpr,
    STEPS: tl.constexpr,
) -> None:
    row = tl.program_id(1).to(tl.int64)
    steps = tl.program_id(0) * STEPS + tl.arange(0, STEPS)
    bins = tl.arange(0, WIDTH)[None, :]
    places = (row * num_steps + steps[:, None]) * (2 * BINS) + bins
    is_inside = (steps < num_steps)[:, None] & (bins < BINS)
    magnitude = tl.minimum(tl.exp(tl.load(post + places, mask=is_inside, other=0.0)), max_magnitude)
    angle = _PER_TURN * sin_turns(_PER_TURN * tl.load(post + places + BINS, mask=is_inside, other=0.0))
    is_before_end = (steps < tl.load(ends + row))[:, None]
    tl.store(out + places, tl.where(is_before_end, magnitude * sin_turns(angle + 0.25), 0.0), mask=is_inside)
    tl.store(out + places + BINS, tl.where(is_before_end, magnitude * sin_turns(angle), 0.0), mask=is_inside)


@triton.jit(do_not_specialize=["num_steps", "num_hops", "before"])  # type: ignore[untyped-decorator]
def _overlap_add_kernel(
    spectra: tl.tensor,
    synthesis: tl.tensor,
    out: tl.tensor,
    num_steps: tl.tensor,
    num_hops: tl.tensor,
    before: tl.tensor,
    TAPS: tl.constexpr,
    PARTS: tl.constexpr,
    HOP: tl.constexpr,
    HOPS: tl.constexpr,
) -> None:
    row = tl.program_id(1).to(tl.int64)
    hops = tl.program_id(0) * HOPS + tl.arange(0, HOPS)
    samples = tl.arange(0, HOP)
    result = tl.zeros((HOPS, HOP), dtype=tl.float32)
    for tap in tl.static_range(TAPS):
        steps = hops + tap - before
        is_step = (steps >= 0) & (steps < num_steps)
        steps_at = spectra + (row * num_steps + steps) * PARTS
        for part in tl.static_range(PARTS):
            value = tl.load(steps_at + part, mask=is_step, other=0.0)
            result += value[:, None] * tl.load(synthesis + (tap * PARTS + part) * HOP + samples)[None, :]
    places = (row * num_hops + hops[:, None]) * HOP + samples[None, :]
    tl.store(out + places, result, mask=(hops < num_hops)[:, None])


def spectrum(post: Tensor, ends: Tensor, max_magnitude: float) -> Tensor:
    """See `spectrum_plain`; post must be contiguous."""
    batch, num_steps, parts = post.shape
    out = torch.empty_like(post)
    _spectrum_kernel[(ceil_div(num_steps, _SPECTRUM_STEPS), batch)](
        post,
        ends,
        out,
        num_steps,
        max_magnitude,
        BINS=parts // 2,
        WIDTH=power_of_2(parts // 2),
        STEPS=_SPECTRUM_STEPS,
    )
    return out


def overlap_add(spectra: Tensor, synthesis: Tensor, *, before: int = 0, after: int = 0) -> Tensor:
    """See `overlap_add_plain`; inputs must be contiguous, the hop a power of two."""
    batch, num_steps, parts = spectra.shape
    taps, _, hop = synthesis.shape
    num_hops = num_steps + before + after - taps + 1
    out = torch.empty(batch, num_hops * hop, device=spectra.device)
    _overlap_add_kernel[(ceil_div(num_hops, _HOPS), batch)](
        spectra, synthesis, out, num_steps, num_hops, before, TAPS=taps, PARTS=parts, HOP=hop, HOPS=_HOPS
    )
    return out
