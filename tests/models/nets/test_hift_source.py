"""The harmonic source against its formula in float64."""

import math

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.models.nets.hift_source import HarmonicSource

HOP, RATE_HZ, HARMONICS = 480, 24_000, 9


def source(is_causal):
    return HarmonicSource(
        HARMONICS, HOP, RATE_HZ, is_causal, sine_amplitude=0.1, noise_std=0.003, voiced_threshold_hz=10
    ).requires_grad_(False)


def formula(f0, is_causal):
    """Sines as specified, in float64 without any reduction of the phase."""
    numbers = torch.arange(1, HARMONICS + 1, dtype=torch.float64)
    # Increments are rounded to float32 as in the reference: a property of the data, not of the accumulation.
    increments = ((f0[:, :, None] * numbers.float() / RATE_HZ) % 1.0).double()
    phases = (torch.cumsum(increments, 1) * 2 * math.pi * HOP).transpose(1, 2)
    mode = {"mode": "nearest"} if is_causal else {"mode": "linear", "align_corners": False}
    return 0.1 * torch.sin(F.interpolate(phases, scale_factor=HOP, **mode)).transpose(1, 2)


@given(st.booleans(), st.lists(st.floats(11, 700, width=32), min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_voiced_frames_are_the_formula(is_causal, pitches):
    f0 = torch.tensor([pitches])
    noise = torch.zeros(1, HOP * len(pitches), HARMONICS)
    waves = source(is_causal).sine_waves(f0, noise)
    assert (waves - formula(f0, is_causal)).abs().max() < 2e-5


def test_unvoiced_frames_are_noise_alone():
    noise = torch.randn(1, 2 * HOP, HARMONICS)
    for is_causal in (False, True):
        waves = source(is_causal).sine_waves(torch.tensor([[10.0, 200.0]]), noise)
        torch.testing.assert_close(waves[:, :HOP], noise[:, :HOP] * (0.1 / 3))
        assert not torch.allclose(waves[:, HOP:], noise[:, HOP:] * (0.1 / 3), atol=1e-3)


def test_a_carried_phase_goes_on_where_it_was():
    f0 = torch.rand(2, 400) * 400 + 50
    net = source(True)
    whole = net.accumulate(f0)
    first = net.accumulate(f0[:, :150])
    second = net.accumulate(f0[:, 150:], first[:, -1])
    distance = (torch.cat([first, second], 1) - whole).abs()
    assert torch.minimum(distance, 1 - distance).max() < 1e-9
    assert whole.dtype == torch.float64


def test_the_source_is_bounded_and_mono():
    net = source(False)
    waves = torch.randn(2, 960, HARMONICS) * 100
    merged = net.merge(waves)
    assert merged.shape == (2, 960)
    assert merged.abs().max() <= 1.0
