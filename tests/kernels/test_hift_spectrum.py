"""The vocoder's way from its last convolution to samples: kernels against the plain versions, these against torch."""

import math

import torch

from light_tts.kernels.hift_spectrum import overlap_add_plain, spectrum_plain
from light_tts.models.nets.hift_istft import ShortTimeFourier


def test_the_spectrum_agrees_with_the_plain_version(device):
    from light_tts.kernels.hift_spectrum_triton import spectrum

    post = torch.randn(3, 150, 18, device=device) * 2.0
    post[2, 140:] = math.nan  # what lies behind an end may be anything
    ends = torch.tensor([150, 77, 0], device=device)
    found, expected = spectrum(post, ends, 5.0), spectrum_plain(post, ends, 5.0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_inverse_transform_agrees_with_the_plain_version(device):
    from light_tts.kernels.hift_spectrum_triton import overlap_add

    spectra, synthesis = torch.randn(2, 150, 18, device=device), torch.randn(4, 18, 4, device=device)
    for around in ({"before": 1, "after": 1}, {"after": 1}, {}):
        found, expected = overlap_add(spectra, synthesis, **around), overlap_add_plain(spectra, synthesis, **around)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_magnitudes_are_limited_and_end_where_the_row_ends():
    post = torch.zeros(2, 3, 4)
    post[0, 0, 0], post[0, 0, 2] = 10.0, math.pi / 2
    spectra = spectrum_plain(post, torch.tensor([3, 1]), 7.0)
    torch.testing.assert_close(spectra[0, 0], torch.tensor([7.0 * math.cos(1.0), 1.0, 7.0 * math.sin(1.0), 0.0]))
    assert spectra[1, 0].abs().max() > 0
    assert spectra[1, 1:].abs().max() == 0


def test_the_inverse_transform_is_that_of_torch():
    fourier = ShortTimeFourier(16, 4)
    spectra = torch.randn(2, 31, 18)
    spectra[:, :, [9, 17]] = 0.0  # the lowest and the highest bin are real
    synthesis = fourier.synthesis[:, :, 0].permute(2, 1, 0)
    found = overlap_add_plain(spectra, synthesis, before=1, after=1)
    bins = torch.complex(spectra[:, :, :9], spectra[:, :, 9:]).transpose(1, 2)
    expected = torch.istft(bins, 16, 4, window=torch.hann_window(16), center=True)
    torch.testing.assert_close(found[:, 4:-4], expected[:, 4:-4], atol=1e-5, rtol=1e-5)
