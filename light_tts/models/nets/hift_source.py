"""The harmonic source: sines of the fundamental and its overtones, plus noise, merged into one signal.

Wang et al. 2019, arXiv:1904.12088 (neural source-filter). Spec: vocoder, section 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class HarmonicSource(nn.Module):
    """f0 per frame and noise per sample -> source samples. Everything float32, phases accumulated in float64.

    harmonics:          fundamental included (9).
    samples_per_frame:  480.
    is_causal:          False interpolates the phase between frame centres; True holds it for a whole frame (a staircase
                        instead of sines: what those checkpoints were trained on).
    """

    def __init__(
        self,
        harmonics: int,
        samples_per_frame: int,
        sample_rate_hz: int,
        is_causal: bool,
        *,
        sine_amplitude: float,
        noise_std: float,
        voiced_threshold_hz: float,
    ) -> None:
        super().__init__()
        self.l_linear = nn.Linear(harmonics, 1)
        self.harmonics, self.samples_per_frame, self.sample_rate_hz = harmonics, samples_per_frame, sample_rate_hz
        self.is_causal = is_causal
        self.sine_amplitude, self.noise_std, self.voiced_threshold_hz = sine_amplitude, noise_std, voiced_threshold_hz

    def voiced(self, f0: Tensor) -> Tensor:
        """f0 [B, M] -> 1.0 where voiced, else 0.0, [B, M, 1] float32."""
        return (f0 > self.voiced_threshold_hz).float()[:, :, None]

    def cycles_per_sample(self, f0: Tensor) -> Tensor:
        """f0 [B, M] -> phase increments of each harmonic, in cycles, modulo 1, [B, M, harmonics] float32."""
        numbers = torch.arange(1, self.harmonics + 1, device=f0.device, dtype=torch.float32)
        return (f0[:, :, None] * numbers / self.sample_rate_hz) % 1.0

    def accumulate(self, f0: Tensor, carried: Tensor | None = None) -> Tensor:
        """Phase at each frame in cycles, modulo 1, [B, M, harmonics] float64.

        carried:  [B, harmonics] float64, the phase at the frame before the first, for a stream that goes on.
        """
        cycles = torch.cumsum(self.cycles_per_sample(f0).double(), dim=1) * self.samples_per_frame
        if carried is not None:
            cycles = cycles + carried[:, None]
        return cycles % 1.0

    def sine_waves(self, f0: Tensor, noise: Tensor, phases: Tensor | None = None) -> Tensor:
        """Sines plus noise of each harmonic, before they are merged.

        f0: [B, M] float32.   noise: [B, samples_per_frame * M, harmonics] float32.
        phases: `accumulate(f0)` when already at hand.   Returns the shape of `noise`.
        """
        batch, frames = f0.shape
        if phases is None:
            phases = self.accumulate(f0)
        voiced = self.voiced(f0)
        noise_gain = self.noise_std * voiced + (self.sine_amplitude / 3.0) * (1.0 - voiced)
        shape = (batch, frames, self.samples_per_frame, self.harmonics)
        if self.is_causal:
            sines = torch.sin(phases.float() * (2 * math.pi))[:, :, None]
        else:
            sines = self._interpolated_sines(f0, phases.float()).view(shape)
        waves = noise.view(shape) * noise_gain[:, :, None] + sines * (self.sine_amplitude * voiced)[:, :, None]
        return waves.view(noise.shape)

    def _interpolated_sines(self, f0: Tensor, phases: Tensor) -> Tensor:
        """Sines [B, samples_per_frame * M, harmonics] of the phase, linear between the centres of frames.

        The phase at a centre is reduced modulo one cycle, the slope to the next centre is not: sums stay small enough
        for float32.
        """
        hop = self.samples_per_frame
        slope = self.cycles_per_sample(f0) * hop
        # Row m goes from centre m - 1 to centre m; the first and the last half frame stand still.
        slope = torch.cat([torch.zeros_like(slope[:, :1]), slope[:, 1:], torch.zeros_like(slope[:, :1])], dim=1)
        start = torch.cat([phases[:, :1], phases], dim=1)
        weight = (torch.arange(hop, device=f0.device, dtype=torch.float32)[:, None] + 0.5) / hop
        cycles = start[:, :, None] + slope[:, :, None] * weight
        cycles = (cycles - cycles.floor()).flatten(1, 2)[:, hop // 2 : hop // 2 - hop]
        return torch.sin(cycles * (2 * math.pi))

    def merge(self, waves: Tensor) -> Tensor:
        """Sine waves [B, N, harmonics] -> source [B, N]."""
        merged: Tensor = torch.tanh(self.l_linear(waves)).squeeze(2)
        return merged
