"""Samples whose number is known before they are."""

import torch

from light_tts.acoustic.pending_samples import HostCopy, Part, PendingSamples


def test_parts_are_joined_when_they_are_asked_for():
    asked = []

    def part(values):
        return Part(len(values), lambda: asked.append(values) or torch.tensor(values))

    samples = PendingSamples([part([0.1, 0.2]), part([0.3])])
    assert samples.num_samples == 3
    assert not asked
    assert samples.fetch().tolist() == torch.tensor([0.1, 0.2, 0.3]).tolist()


def test_no_parts_are_no_samples():
    assert PendingSamples([]).num_samples == 0
    assert PendingSamples([]).fetch().shape == (0,)


def test_samples_of_any_kind_become_float32_on_the_host():
    samples = PendingSamples.of(torch.tensor([0.5, -0.5], dtype=torch.float16))
    assert samples.num_samples == 2
    assert samples.fetch().dtype == torch.float32
    assert HostCopy(torch.ones(2, 3)).wait().shape == (2, 3)
