"""Time of the flow's Euler solver: the schedule and the sinusoidal features of t (spec: flow, sections 6 to 8)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cosine_schedule(steps: int) -> Tensor:
    """tau_0 .. tau_n, [steps + 1] float32 from 0 to 1: 1 - cos(k / n * pi / 2)."""
    return 1.0 - torch.cos(torch.linspace(0.0, 1.0, steps + 1) * 0.5 * math.pi)


def sinusoid(times: Tensor, width: int) -> Tensor:
    """[n] times in [0, 1] -> [n, width] float32: sines then cosines of 1000 t at width / 2 frequencies."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10000.0) / (half - 1)))
    angles = 1000.0 * times.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
