"""Speaking rate: the same frames however the mel is cut."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.acoustic.speed import MelResampler
from light_tts.errors import InvalidRequest

SPEEDS = st.one_of(st.sampled_from([0.25, 0.5, 0.8, 1.0, 1.3, 2.0, 4.0]), st.floats(0.25, 4.0))


def mel(frames):
    return torch.randn(80, frames, generator=torch.Generator().manual_seed(frames))


def pushed(whole, sizes, speed):
    resampler, outputs, start = MelResampler(speed), [], 0
    for index, size in enumerate(sizes):
        outputs.append(resampler.push(whole[:, start : start + size], is_final=index == len(sizes) - 1))
        start += size
    return torch.cat(outputs, dim=1)


def formula(whole, speed):
    frames = whole.shape[1]
    position = ((torch.arange(int(frames / speed), dtype=torch.float64) + 0.5) * speed - 0.5).clamp(0, frames - 1)
    left = position.floor().long()
    right = (left + 1).clamp(max=frames - 1)
    weight = position - left
    return (whole[:, left].double() * (1 - weight) + whole[:, right].double() * weight).float()


@given(SPEEDS, st.integers(4, 120))
@settings(max_examples=40, deadline=None)
def test_one_final_push_is_the_reference(speed, frames):
    whole = mel(frames)
    expected = F.interpolate(whole[None], size=int(frames / speed), mode="linear", align_corners=False)[0]
    assert torch.equal(MelResampler(speed).push(whole, is_final=True), expected)


@given(SPEEDS, st.lists(st.integers(0, 40), min_size=2, max_size=8))
@settings(max_examples=80, deadline=None)
def test_the_cut_makes_no_difference(speed, sizes):
    sizes[0] = max(sizes[0], 1)
    whole = mel(sum(sizes))
    actual = pushed(whole, sizes, speed)
    assert actual.shape == (80, int(sum(sizes) / speed))
    torch.testing.assert_close(actual, formula(whole, speed), atol=1e-5, rtol=1e-5)


def test_speed_one_passes_everything_on_at_once():
    resampler, whole = MelResampler(1.0), mel(30)
    assert torch.equal(resampler.push(whole[:, :20], False), whole[:, :20])
    assert torch.equal(resampler.push(whole[:, 20:], True), whole[:, 20:])


def test_frames_come_as_early_as_they_can():
    """Slowed to half, all but the last frame of a piece can be told at once."""
    assert MelResampler(0.5).push(mel(50), is_final=False).shape[1] == 99


def test_only_the_last_frames_are_kept():
    resampler = MelResampler(1.3)
    for _ in range(20):
        resampler.push(mel(50), is_final=False)
    assert resampler._carried.shape[1] <= 3


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan")])
def test_impossible_speeds_are_refused(speed):
    with pytest.raises(InvalidRequest, match="speed") as caught:
        MelResampler(speed)
    assert caught.value.field == "speed"
