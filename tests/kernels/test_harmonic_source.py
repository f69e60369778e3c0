"""The harmonic source: one kernel against the plain version, the plain version against the network's own."""

import math

import pytest
import torch

from light_tts.kernels.harmonic_source import SourceShape, counter_noise, harmonic_source_plain
from light_tts.models.nets.hift_source import HarmonicSource

HARMONICS, HOP = 9, 480


def shape_of(source):
    return SourceShape(
        source.harmonics,
        source.samples_per_frame,
        source.sample_rate_hz,
        source.sine_amplitude,
        source.noise_std,
        source.voiced_threshold_hz,
        source.l_linear.weight[0].detach(),
        source.l_linear.bias.detach(),
        source.is_causal,
    )


def make(is_causal, device="cpu"):
    torch.manual_seed(2)
    source = HarmonicSource(
        HARMONICS, HOP, 24000, is_causal, sine_amplitude=0.1, noise_std=0.003, voiced_threshold_hz=10.0
    ).to(device)
    source.requires_grad_(False)
    f0 = (torch.rand(2, 6, device=device) - 0.3).clamp_min(0) * 400
    return source, f0, source.accumulate(f0)


@pytest.mark.parametrize("is_causal", [False, True])
def test_the_plain_version_is_the_networks_own(is_causal):
    source, f0, phases = make(is_causal)
    noise = torch.randn(2, 6 * HOP, HARMONICS)
    expected = source.merge(source.sine_waves(f0, noise, phases))
    found = harmonic_source_plain(f0, phases.float(), torch.tensor([6, 6]), noise, shape_of(source))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def test_a_row_that_ends_earlier_sounds_as_it_does_alone():
    source, f0, phases = make(False)
    noise = torch.randn(2, 6 * HOP, HARMONICS)
    together = harmonic_source_plain(f0, phases.float(), torch.tensor([6, 4]), noise, shape_of(source))
    alone = source.merge(source.sine_waves(f0[1:, :4], noise[1:, : 4 * HOP]))
    torch.testing.assert_close(together[1:, : 4 * HOP], alone, atol=2e-6, rtol=1e-5)


def test_counter_noise_is_normal_and_belongs_to_its_key():
    keys = torch.tensor([3, -(2**61), 3])
    noise = counter_noise(keys, 4000, HARMONICS)
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    assert abs(noise[0].mean()) < 0.02
    assert abs(noise[0].std() - 1.0) < 0.02
    assert abs((noise[0].abs() < 1.0).float().mean() - math.erf(1 / math.sqrt(2))) < 0.02
    correlation = (noise[0, 1:] * noise[0, :-1]).mean()
    assert abs(correlation) < 0.02
    assert torch.equal(counter_noise(keys, 10, HARMONICS)[1], noise[1, :10])


@pytest.mark.parametrize("has_table", [False, True])
@pytest.mark.parametrize("is_causal", [False, True])
def test_the_kernel_agrees_with_the_plain_version(is_causal, has_table, device):
    from light_tts.kernels.harmonic_source_triton import harmonic_source

    source, f0, phases = make(is_causal, device)
    shape, frames = shape_of(source), torch.tensor([6, 4], device=device)
    table, keys = None, torch.tensor([11, -5], device=device)
    if has_table:
        table, keys = torch.rand(5000, HARMONICS, device=device), torch.tensor([17, 4900], device=device)
        places = (keys[:, None] + torch.arange(6 * HOP, device=device)) % len(table)
        noise = table[places]
    else:
        noise = counter_noise(keys, 6 * HOP, HARMONICS)
    expected = harmonic_source_plain(f0, phases.float(), frames, noise, shape)
    found = harmonic_source(f0, phases.float(), frames, keys, shape, table)
    for row, length in enumerate((6, 4)):
        torch.testing.assert_close(found[row, : length * HOP], expected[row, : length * HOP], atol=1e-5, rtol=1e-4)
