"""What a run tells the planner of its listener."""

import pytest

from light_tts.acoustic.run import PlaybackClock


def test_the_clock_runs_from_the_first_audio_on():
    clock = PlaybackClock()
    assert clock.unplayed_s(0, 5.0) is None
    clock.note(0, 24_000, 10.0)
    assert clock.unplayed_s(0, 10.0) == 1.0
    clock.note(0, 12_000, 10.5)
    assert clock.unplayed_s(0, 10.5) == 1.0
    assert clock.unplayed_s(0, 13.0) == pytest.approx(-1.5)


def test_audio_of_a_later_segment_does_not_help_the_one_before_it():
    clock = PlaybackClock()
    clock.note(3, 24_000, 0.0)
    clock.expect(3, 2.0)
    clock.note(7, 240_000, 0.0)
    assert clock.unplayed_s(3, 0.0) == 1.0
    assert clock.unplayed_s(7, 0.0) == 13.0
    clock.note(3, 48_000, 0.5)
    clock.expect(3, 0.0)
    assert clock.unplayed_s(7, 0.5) == 12.5


def test_a_segment_behind_one_that_is_still_to_be_spoken_is_not_the_first_audio():
    clock = PlaybackClock()
    clock.expect(0, 2.0)
    assert clock.unplayed_s(0, 9.0) is None
    assert clock.unplayed_s(1, 9.0) == 2.0
