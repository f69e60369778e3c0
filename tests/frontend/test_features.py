"""Features of reference audio: agreement with formulas written plainly, and shapes at awkward lengths."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.frontend.features import (
    fbank_frames,
    kaldi_fbank,
    log_mel_frames,
    prompt_mel,
    prompt_mel_frames,
    whisper_log_mel,
)
from light_tts.frontend.resample import resample, resampled_length


@settings(deadline=None, max_examples=25)
@given(st.integers(721, 6000))
def test_frame_counts_are_those_of_the_formulas(num_samples: int):
    wave = torch.sin(torch.arange(num_samples) * 0.1)
    assert whisper_log_mel(wave).shape == (128, log_mel_frames(num_samples))
    assert kaldi_fbank(wave).shape == (fbank_frames(num_samples), 80)
    assert prompt_mel(wave, None).shape == (prompt_mel_frames(num_samples), 80)


def test_silence_is_finite_everywhere():
    silence = torch.zeros(4800)
    for features in (whisper_log_mel(silence), kaldi_fbank(silence), prompt_mel(silence, 8000.0)):
        assert bool(torch.isfinite(features).all())


@pytest.mark.parametrize(("from_hz", "to_hz"), [(44100, 16000), (16000, 24000), (22051, 16000), (48000, 24000)])
def test_resampling_is_the_plain_sum_over_all_taps(from_hz: int, to_hz: int):
    """The written formula, one output sample at a time, in double precision."""
    wave = torch.randn(700, generator=torch.Generator().manual_seed(1)) * 0.3
    out = resample(wave, from_hz, to_hz)
    divisor = math.gcd(from_hz, to_hz)
    o, n = from_hz // divisor, to_hz // divisor
    base = 0.99 * min(o, n)
    width = math.ceil(6 * o / base)
    padded = torch.nn.functional.pad(wave.double(), (width, width + o))
    for index in [0, 1, 7, 100, out.shape[0] - 1]:
        q, j = divmod(index, n)
        m = torch.arange(-width, width + o, dtype=torch.float64)
        t = ((m / o - j / n) * base).clamp(-6, 6)
        taps = torch.sinc(t) * torch.cos(math.pi * t / 12) ** 2 * base / o
        window = padded[q * o : q * o + taps.shape[0]]
        expected = float((taps[: window.shape[0]] * window).sum())
        assert float(out[index]) == pytest.approx(expected, abs=2e-6)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 3000), st.sampled_from([16000, 22050, 44100, 47999, 48000, 192000]), st.sampled_from([16000, 24000])
)
def test_resampled_lengths(num_samples: int, from_hz: int, to_hz: int):
    length = resample(torch.zeros(num_samples), from_hz, to_hz).shape[0]
    assert length == resampled_length(num_samples, from_hz, to_hz) == math.ceil(num_samples * to_hz / from_hz)


def test_a_tone_keeps_its_pitch_and_level():
    time = torch.arange(44100) / 44100
    out = resample(torch.sin(2 * math.pi * 1000 * time), 44100, 24000)
    expected = torch.sin(2 * math.pi * 1000 * torch.arange(24000) / 24000)
    assert float((out - expected)[200:-200].abs().max()) < 1e-3


def test_the_upper_edge_of_the_mel_matters():
    wave = torch.randn(4800, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(prompt_mel(wave, 8000.0), prompt_mel(wave, None), atol=0.1)
    assert torch.equal(prompt_mel(wave, 12000.0), prompt_mel(wave, None))
