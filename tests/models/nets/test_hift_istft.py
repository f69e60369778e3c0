"""Short transforms as convolutions against torch's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.models.nets.hift_istft import ShortTimeFourier

N_FFT, HOP = 16, 4


@pytest.fixture(scope="module")
def fourier():
    return ShortTimeFourier(N_FFT, HOP)


@given(st.integers(3, 60), st.integers(1, 3), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_analysis_equals_torch(hops, batch, seed):
    fourier = ShortTimeFourier(N_FFT, HOP)
    samples = torch.randn(batch, hops * HOP, generator=torch.Generator().manual_seed(seed))
    expected = torch.stft(samples, N_FFT, HOP, window=torch.hann_window(N_FFT), return_complex=True).transpose(1, 2)
    actual = fourier.spectra(fourier.reflect(samples))
    torch.testing.assert_close(actual, torch.cat([expected.real, expected.imag], dim=2), atol=1e-5, rtol=1e-5)


@given(st.integers(3, 60), st.integers(1, 3), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_synthesis_equals_torch_also_for_spectra_of_no_signal(hops, batch, seed):
    """Random spectra contradict each other where windows overlap, and their outer bins have imaginary parts."""
    fourier = ShortTimeFourier(N_FFT, HOP)
    spectra = torch.randn(batch, hops + 1, N_FFT + 2, generator=torch.Generator().manual_seed(seed))
    real, imaginary = spectra.transpose(1, 2).chunk(2, dim=1)
    expected = torch.istft(torch.complex(real, imaginary), N_FFT, HOP, window=torch.hann_window(N_FFT))
    torch.testing.assert_close(fourier.whole_signal(spectra), expected, atol=1e-5, rtol=1e-5)


def test_there_and_back(fourier):
    samples = torch.randn(2, 480)
    torch.testing.assert_close(fourier.whole_signal(fourier.spectra(fourier.reflect(samples))), samples)
