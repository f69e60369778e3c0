"""Acoustic features of reference audio, in float32 torch (spec: frontend, sections 3.2, 3.4 and 3.5).

Waves are [N] float32 in [-1, 1]; at 16 kHz for the speech tokenizer and the speaker model, at 24 kHz for the mel.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch

REFERENCE_RATE_HZ = 16_000
LOG_MEL_BINS = 128
LOG_MEL_HOP = 160  # 10 ms
FBANK_FRAME = 400  # 25 ms
MEL_HOP = 480  # 20 ms
_LOG_MEL_FFT = 400
_FBANK_FFT = 512
_FBANK_BINS = 80
_MEL_FFT = 1920
_MEL_BINS = 80
_MEL_RATE_HZ = 24_000
_MEL_PAD = (_MEL_FFT - MEL_HOP) // 2


def log_mel_frames(num_samples: int) -> int:
    """Frames of `whisper_log_mel`."""
    return num_samples // LOG_MEL_HOP


def fbank_frames(num_samples: int) -> int:
    """Frames of `kaldi_fbank`; 0 when there is not one whole frame."""
    return max(0, 1 + (num_samples - FBANK_FRAME) // LOG_MEL_HOP)


def prompt_mel_frames(num_samples: int) -> int:
    """Frames of `prompt_mel`."""
    return num_samples // MEL_HOP


def speech_token_count(num_log_mel_frames: int) -> int:
    """Codes the speech tokenizer makes of so many frames."""
    return -(-num_log_mel_frames // 4)


def whisper_log_mel(wave: torch.Tensor) -> torch.Tensor:
    """Log-mel of the Whisper models: [128, N // 160] float32 of a 16 kHz wave (Radford et al. 2022)."""
    spectrum: torch.Tensor = torch.stft(
        wave, _LOG_MEL_FFT, LOG_MEL_HOP, window=torch.hann_window(_LOG_MEL_FFT), center=True, return_complex=True
    )
    power = spectrum[..., :-1].abs() ** 2
    mel = _slaney_filters(REFERENCE_RATE_HZ, _LOG_MEL_FFT, LOG_MEL_BINS, REFERENCE_RATE_HZ / 2) @ power
    log_mel = mel.clamp(min=1e-10).log10()
    return (log_mel.clamp(min=float(log_mel.max()) - 8.0) + 4.0) / 4.0


def kaldi_fbank(wave: torch.Tensor) -> torch.Tensor:
    """Kaldi's log filter banks without dither: [frames, 80] float32 of a 16 kHz wave in [-1, 1]."""
    frames = wave.unfold(0, FBANK_FRAME, LOG_MEL_HOP)
    frames = frames - frames.mean(dim=1, keepdim=True)
    before = torch.cat((frames[:, :1], frames[:, :-1]), dim=1)
    windowed = (frames - 0.97 * before) * _povey_window()
    power: torch.Tensor = torch.fft.rfft(windowed, n=_FBANK_FFT).abs() ** 2
    mel = power[:, :-1] @ _htk_filters().T
    return mel.clamp(min=2.0**-23).log()


def speaker_features(wave: torch.Tensor) -> torch.Tensor:
    """What the speaker model reads: `kaldi_fbank` minus the mean over time of each bin, [frames, 80]."""
    fbank = kaldi_fbank(wave)
    return fbank - fbank.mean(dim=0, keepdim=True)


def prompt_mel(wave: torch.Tensor, fmax_hz: float | None) -> torch.Tensor:
    """Log-mel that the flow is conditioned on: [N // 480, 80] float32 of a 24 kHz wave longer than 720 samples.

    fmax_hz:  upper edge of the highest filter; None is the Nyquist frequency.
    """
    padded = torch.nn.functional.pad(wave[None, None], (_MEL_PAD, _MEL_PAD), mode="reflect")[0, 0]
    spectrum = torch.stft(
        padded, _MEL_FFT, MEL_HOP, window=torch.hann_window(_MEL_FFT), center=False, return_complex=True
    )
    magnitude = torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
    mel = slaney_mel_filters(fmax_hz) @ magnitude
    return mel.clamp(min=1e-5).log().T.contiguous()


def slaney_mel_filters(fmax_hz: float | None) -> torch.Tensor:
    """Filter bank of `prompt_mel`, [80, 961] float32."""
    return _slaney_filters(_MEL_RATE_HZ, _MEL_FFT, _MEL_BINS, fmax_hz or _MEL_RATE_HZ / 2)


@lru_cache(maxsize=4)
def _slaney_filters(rate_hz: int, fft_size: int, num_bins: int, fmax_hz: float) -> torch.Tensor:
    """Triangles of unit area, equally spaced on Slaney's mel scale from 0 to `fmax_hz`; [bins, fft/2 + 1]."""
    edges = _slaney_to_hz(torch.linspace(0.0, _hz_to_slaney(fmax_hz), num_bins + 2, dtype=torch.float64))
    bins_hz = torch.linspace(0.0, rate_hz / 2, fft_size // 2 + 1, dtype=torch.float64)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = torch.minimum((bins_hz - left) / (centre - left), (right - bins_hz) / (right - centre))
    return (triangles.clamp(min=0.0) * (2.0 / (right - left))).float()


def _hz_to_slaney(hz: float) -> float:
    return hz * 3.0 / 200.0 if hz < 1000.0 else 15.0 + math.log(hz / 1000.0) * 27.0 / math.log(6.4)


def _slaney_to_hz(mel: torch.Tensor) -> torch.Tensor:
    return torch.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * torch.exp((mel - 15.0) * math.log(6.4) / 27.0))


@lru_cache(maxsize=1)
def _povey_window() -> torch.Tensor:
    ramp = torch.arange(FBANK_FRAME, dtype=torch.float64) * (2.0 * math.pi / (FBANK_FRAME - 1))
    return ((0.5 - 0.5 * torch.cos(ramp)) ** 0.85).float()


@lru_cache(maxsize=1)
def _htk_filters() -> torch.Tensor:
    """Kaldi's triangles, equal in mel between 20 and 8000 Hz, for the bins below Nyquist; [80, 256]."""
    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (20.0, 8000.0))
    edges = torch.linspace(low, high, _FBANK_BINS + 2, dtype=torch.float64)
    bins_hz = torch.arange(_FBANK_FFT // 2, dtype=torch.float64) * (REFERENCE_RATE_HZ / _FBANK_FFT)
    mel = 1127.0 * torch.log(1.0 + bins_hz / 700.0)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)).clamp(min=0.0).float()
