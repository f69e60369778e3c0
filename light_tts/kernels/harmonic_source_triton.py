"""The harmonic source in one kernel, noise included. Plain version: `harmonic_source.py`.

Importing this needs Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor, empty, float32

from light_tts.kernels.harmonic_source import SourceShape
from light_tts.kernels.launch_sizes import ceil_div
from light_tts.kernels.triton_math import sin_turns

_BLOCK = 256


@triton.jit  # type: ignore[untyped-decorator]
def _hash(word: tl.tensor) -> tl.tensor:
    # SplitMix64 on signed words: a shift copies the sign, the mask takes the copies away.
    word = (word ^ ((word >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    word = (word ^ ((word >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return word ^ ((word >> 31) & 0x1FFFFFFFF)


@triton.jit(do_not_specialize=["num_frames", "table_rows"])  # type: ignore[untyped-decorator]
def _source_kernel(
    f0: tl.tensor,
    phases: tl.tensor,
    frames: tl.tensor,
    noise_keys: tl.tensor,
    table: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    num_frames: tl.tensor,
    table_rows: tl.tensor,
    sample_rate_hz: tl.tensor,
    sine_amplitude: tl.tensor,
    noise_std: tl.tensor,
    voiced_threshold_hz: tl.tensor,
    HARMONICS: tl.constexpr,
    HOP: tl.constexpr,
    STEADY: tl.constexpr,
    HAS_TABLE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(1).to(tl.int64)
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_inside = places < num_frames * HOP
    frame = places // HOP
    pitch = tl.load(f0 + row * num_frames + frame, mask=is_inside, other=0.0)
    voiced = tl.where(pitch > voiced_threshold_hz, 1.0, 0.0)
    noise_gain = noise_std * voiced + (sine_amplitude / 3.0) * (1.0 - voiced)
    sine_gain = sine_amplitude * voiced
    # Between the centres of frames: `step` goes from the centre before to this one.
    step = (places + HOP // 2) // HOP
    weight_of_step = (((places + HOP // 2) % HOP).to(tl.float32) + 0.5) / HOP
    own_frames = tl.load(frames + row)
    moves = (step > 0) & (step < own_frames)
    step_pitch = tl.load(f0 + row * num_frames + step, mask=is_inside & moves, other=0.0)
    start = tl.where(step > 0, step - 1, 0)
    key = tl.load(noise_keys + row)
    merged = tl.zeros((BLOCK,), dtype=tl.float32) + tl.load(bias)
    for harmonic in tl.static_range(HARMONICS):
        if STEADY:
            cycles = tl.load(phases + (row * num_frames + frame) * HARMONICS + harmonic, mask=is_inside, other=0.0)
        else:
            increment = step_pitch * (harmonic + 1.0) / sample_rate_hz
            slope = tl.where(moves, (increment - tl.floor(increment)) * HOP, 0.0)
            cycles = tl.load(phases + (row * num_frames + start) * HARMONICS + harmonic, mask=is_inside, other=0.0)
            cycles += slope * weight_of_step
        sine = sin_turns(cycles)
        if HAS_TABLE:
            # Here the key is the table's row of the first sample.
            drawn = tl.load(table + (key + places) % table_rows * HARMONICS + harmonic, mask=is_inside, other=0.0)
        else:
            word = _hash(key + (places.to(tl.int64) * HARMONICS + harmonic + 1) * -7046029254386353131)
            first = (((word >> 40) & 0xFFFFFF) + 1).to(tl.float32) * 5.9604644775390625e-08
            second = ((word >> 12) & 0xFFFFFF).to(tl.float32) * 5.9604644775390625e-08
            drawn = tl.sqrt(-2.0 * tl.log(first)) * sin_turns(second + 0.25)
        merged += (drawn * noise_gain + sine * sine_gain) * tl.load(weight + harmonic)
    # tanh; far out the exponential saturates to the right limits.
    merged = 2.0 / (1.0 + tl.exp(-2.0 * merged)) - 1.0
    tl.store(out + row * num_frames * HOP + places, merged, mask=is_inside)


def harmonic_source(
    f0: Tensor, phases: Tensor, frames: Tensor, noise_keys: Tensor, shape: SourceShape, table: Tensor | None = None
) -> Tensor:
    """See `harmonic_source_plain`; noise is made inside.

    All tensors must be contiguous.

    noise_keys:  [B] int64: keys of `counter_noise`; with a table, the rows of it that belong to the first samples.
    table:       [rows, harmonics] float32, used in a circle.
    """
    batch, num_frames = f0.shape
    assert frames.is_contiguous()
    assert noise_keys.is_contiguous()
    out = empty((batch, num_frames * shape.samples_per_frame), dtype=float32, device=f0.device)
    _source_kernel[(ceil_div(out.shape[1], _BLOCK), batch)](
        f0,
        phases,
        frames,
        noise_keys,
        f0 if table is None else table,
        shape.weight,
        shape.bias,
        out,
        num_frames,
        1 if table is None else table.shape[0],
        float(shape.sample_rate_hz),
        shape.sine_amplitude,
        shape.noise_std,
        shape.voiced_threshold_hz,
        HARMONICS=shape.harmonics,
        HOP=shape.samples_per_frame,
        STEADY=shape.steady,
        HAS_TABLE=table is not None,
        BLOCK=_BLOCK,
    )
    return out
