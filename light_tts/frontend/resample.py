"""Sample-rate conversion by windowed sinc, the formula the models' training data went through (spec: frontend, 3.1)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch

_ROLLOFF = 0.99  # of the lower Nyquist frequency
_ZERO_CROSSINGS = 6  # half width of the window
_ELEMENTS_AT_ONCE = 1 << 22  # gathered taps held in memory together, 16 MB


def resampled_length(num_samples: int, from_hz: int, to_hz: int) -> int:
    """Samples that `resample` returns."""
    divisor = math.gcd(from_hz, to_hz)
    return -(-num_samples * (to_hz // divisor) // (from_hz // divisor))


def resample(samples: torch.Tensor, from_hz: int, to_hz: int) -> torch.Tensor:
    """Convert `samples` [N] float32 from one rate to another; [ceil(N to/from)] float32.

    The window is zero outside six zero crossings, so each output sample needs only the few taps inside it; the sum is
    the same as the full filter bank's, and odd rates cost no more than common ones.
    """
    if from_hz == to_hz:
        return samples
    kernel, offsets, step, margin = _kernel(from_hz, to_hz)
    num_phases, num_taps = kernel.shape
    total = resampled_length(samples.shape[0], from_hz, to_hz)
    num_steps = -(-total // num_phases)
    behind = num_steps * step + margin + num_taps - samples.shape[0]
    padded = torch.nn.functional.pad(samples, (margin, max(0, behind)))
    taps = torch.arange(num_taps)
    at_once = max(1, _ELEMENTS_AT_ONCE // (num_phases * num_taps))
    out = torch.empty(num_steps, num_phases)
    for first in range(0, num_steps, at_once):
        steps = torch.arange(first, min(first + at_once, num_steps)) * step
        index = steps[:, None, None] + offsets[None, :, None] + taps
        out[first : first + at_once] = (padded[index] * kernel).sum(-1)
    return out.reshape(-1)[:total]


@lru_cache(maxsize=8)
def _kernel(from_hz: int, to_hz: int) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    """(taps [n, K] float32, first tap of each phase in the padded signal [n], input samples per turn, padding)."""
    divisor = math.gcd(from_hz, to_hz)
    step, num_phases = from_hz // divisor, to_hz // divisor
    base = _ROLLOFF * min(step, num_phases)
    width = math.ceil(_ZERO_CROSSINGS * step / base)
    phase = torch.arange(num_phases)
    nearest = phase * step // num_phases
    taps = torch.arange(-width, width + 2) + nearest[:, None]
    # Taps before -width or past the window weigh nothing in the formula; they are there to keep the rows equally long.
    time = (taps.double() / step - phase[:, None].double() / num_phases) * base
    time = time.clamp(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    window = torch.cos(math.pi * time / (2 * _ZERO_CROSSINGS)) ** 2
    kernel = torch.sinc(time) * window * (base / step)
    return kernel.float(), nearest, step, width
