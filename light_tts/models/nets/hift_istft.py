"""Short-time Fourier transforms with very short windows (16 samples, hop 4) as plain convolutions.

With a window of four hops, a signal cut into blocks of one hop turns both directions into a convolution of four taps
over blocks: no FFT plan, no unfolding, no overlap-add loop. Centred, periodic Hann window, one-sided, as in torch.stft.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from light_tts.models.nets.hift_layers import conv_time_major

OVERLAP = 4  # windows over each sample; the convolution form needs n_fft = 4 hops


class ShortTimeFourier(nn.Module):
    """Both directions between samples [B, N] and spectra [B, N / hop + 1, 2 K], K = n_fft / 2 + 1 bins.

    A spectrum row is K real parts, then K imaginary parts. Always float32.
    """

    analysis: Tensor
    synthesis: Tensor
    first_gain: Tensor
    last_gain: Tensor

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        position = torch.arange(n_fft, dtype=torch.float64)
        window = 0.5 - 0.5 * torch.cos(2 * math.pi * position / n_fft)
        bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)
        angle = 2 * math.pi * bins[:, None] * position[None, :] / n_fft
        forward = torch.cat([torch.cos(angle), -torch.sin(angle)]) * window  # [2K, n_fft]
        # Inner bins stand for themselves and their mirror image.
        weight = torch.full((n_fft // 2 + 1, 1), 2.0, dtype=torch.float64)
        weight[0] = weight[-1] = 1.0
        inverse = torch.cat([weight * torch.cos(angle), -weight * torch.sin(angle)]) * window / n_fft
        envelope = (window**2).view(OVERLAP, hop).sum(0)  # squared windows over one sample: the same for all blocks
        blocks = inverse.view(-1, OVERLAP, hop).flip(1) / envelope  # [2K, tap, hop]
        self._constant("analysis", forward.view(-1, OVERLAP, hop).permute(0, 2, 1)[:, :, None])
        self._constant("synthesis", blocks.permute(2, 0, 1)[:, :, None])
        # One window is missing over the first and over the last hop of a whole signal.
        squares = (window**2).view(OVERLAP, hop)
        self._constant("first_gain", envelope / (envelope - squares[-1]))
        self._constant("last_gain", envelope / (envelope - squares[0]))

    def _constant(self, name: str, value: Tensor) -> None:
        layout = torch.channels_last if value.dim() == 4 else torch.contiguous_format
        self.register_buffer(name, value.float().contiguous(memory_format=layout), persistent=False)

    @property
    def margin(self) -> int:
        """Samples that the first window reaches to the left of the signal, and the last one to the right."""
        return self.n_fft // 2

    def spectra(self, padded: Tensor) -> Tensor:
        """Samples with their margins [B, N + 2 margin] -> [B, N / hop + 1, 2K]."""
        return conv_time_major(padded.reshape(padded.shape[0], -1, self.hop), self.analysis, None)

    def reflect(self, samples: Tensor) -> Tensor:
        """Whole signals [B, N] with reflected margins [B, N + 2 margin]."""
        return F.pad(samples[:, None], (self.margin, self.margin), mode="reflect")[:, 0]

    def overlap_add(self, spectra: Tensor) -> Tensor:
        """Spectra [B, T, 2K] -> the (T - 3) hops of samples that all four windows reach [B, hop * (T - 3)]."""
        return conv_time_major(spectra, self.synthesis, None).reshape(spectra.shape[0], -1)

    def whole_signal(self, spectra: Tensor) -> Tensor:
        """Spectra of whole signals [B, N / hop + 1, 2K] -> [B, N]."""
        samples = self.overlap_add(F.pad(spectra, (0, 0, 1, 1)))
        self.correct_start(samples)
        self.correct_end(samples)
        return samples

    def correct_start(self, samples: Tensor) -> None:
        """Make good for the missing window at the start of a signal [..., N], in place."""
        samples[..., : self.hop] *= self.first_gain

    def correct_end(self, samples: Tensor) -> None:
        """Make good for the missing window at the end of a signal [..., N], in place."""
        samples[..., -self.hop :] *= self.last_gain
