"""Sines of the fundamental and its overtones with noise, merged into one signal: rows of unequal length, plain version.

The same as `HarmonicSource`, with noise that needs no table of normals: `harmonic_source_triton.py` computes all of it
in one kernel, so that nine waves per sample never lie in memory.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from light_tts.kernels.splitmix import counter_words, shift_right

_UNIFORM_BITS = 24


class SourceShape(NamedTuple):
    """Constants of a harmonic source; see `HarmonicSource`.

    weight, bias:  [harmonics] and [1] float32 of the layer that merges the waves.
    steady:        the phase stays for a whole frame (causal models) instead of going from centre to centre.
    """

    harmonics: int
    samples_per_frame: int
    sample_rate_hz: int
    sine_amplitude: float
    noise_std: float
    voiced_threshold_hz: float
    weight: Tensor
    bias: Tensor
    steady: bool


def harmonic_source_plain(f0: Tensor, phases: Tensor, frames: Tensor, noise: Tensor, shape: SourceShape) -> Tensor:
    """Source samples of each row.

    f0:      [B, M] float32 Hz.
    phases:  [B, M, harmonics] float32 cycles at the centre (steady: over the whole) of each frame.
    frames:  [B] int64, frames that each row has; samples beyond them are meaningless.
    noise:   [B, M * samples_per_frame, harmonics] float32.

    Returns [B, M * samples_per_frame] float32.
    """
    hop = shape.samples_per_frame
    numbers = torch.arange(1, shape.harmonics + 1, device=f0.device, dtype=torch.float32)
    voiced = (f0 > shape.voiced_threshold_hz).float()[:, :, None]
    gain = shape.noise_std * voiced + (shape.sine_amplitude / 3.0) * (1.0 - voiced)
    if shape.steady:
        cycles = phases.repeat_interleave(hop, dim=1)
    else:
        slope = (f0[:, :, None] * numbers / shape.sample_rate_hz) % 1.0 * hop
        inside = torch.arange(f0.shape[1], device=f0.device) < frames[:, None]
        slope = torch.where(inside[:, :, None], slope, 0.0)
        slope[:, 0] = 0.0
        slope = torch.cat([slope, torch.zeros_like(slope[:, :1])], dim=1)
        start = torch.cat([phases[:, :1], phases], dim=1)
        weight = (torch.arange(hop, device=f0.device, dtype=torch.float32)[:, None] + 0.5) / hop
        cycles = (start[:, :, None] + slope[:, :, None] * weight).flatten(1, 2)[:, hop // 2 : hop // 2 - hop]
        cycles = cycles - cycles.floor()
    sines = torch.sin(cycles * (2 * math.pi))
    waves = noise * gain.repeat_interleave(hop, dim=1)
    waves = waves + sines * (shape.sine_amplitude * voiced).repeat_interleave(hop, dim=1)
    return torch.tanh((waves * shape.weight).sum(2) + shape.bias)


def counter_noise(keys: Tensor, count: int, harmonics: int) -> Tensor:
    """Standard normals [B, count, harmonics] float32 that depend on each row's key [B] int64 and their place alone.

    SplitMix64 by counter (Steele et al. 2014), two 24-bit uniforms of each word, Box and Muller 1958.
    """
    places = torch.arange(1, count * harmonics + 1, device=keys.device, dtype=torch.int64)
    word = counter_words(keys, places)
    scale, mask = 2.0**-_UNIFORM_BITS, (1 << _UNIFORM_BITS) - 1
    first = (shift_right(word, 64 - _UNIFORM_BITS) + 1).to(torch.float32) * scale
    second = ((word >> 12) & mask).to(torch.float32) * scale
    normal = torch.sqrt(-2.0 * torch.log(first)) * torch.cos(second * (2 * math.pi))
    return normal.view(-1, count, harmonics)
