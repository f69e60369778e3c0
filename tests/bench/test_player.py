"""The player: when does a listener hear silence?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_tts.bench.player import TOLERANCE_S, Playback, play

SECONDS = st.floats(0.0, 10.0)
GAPS_AND_AUDIO = st.lists(st.tuples(SECONDS, st.floats(0.001, 10.0)), min_size=1, max_size=30)


def arrivals_of(gaps_and_audio: list[tuple[float, float]]) -> list[tuple[float, float]]:
    now_s, arrivals = 0.0, []
    for gap_s, audio_s in gaps_and_audio:
        now_s += gap_s
        arrivals.append((now_s, audio_s))
    return arrivals


def test_a_stall_in_the_middle_is_one_underrun() -> None:
    # 1 s of audio at 0.5 plays until 1.5; the next comes at 2.25.
    assert play([(0.5, 1.0), (2.25, 2.0), (3.0, 1.0)]) == Playback(start_s=0.5, end_s=5.25, underruns=1, late_s=0.75)


def test_a_wait_within_the_tolerance_is_not_heard() -> None:
    within = play([(0.0, 1.0), (1.0 + TOLERANCE_S / 2, 1.0)])
    assert within is not None
    assert (within.underruns, within.late_s) == (0, 0.0)
    assert within.end_s == 2.0 + TOLERANCE_S / 2


def test_without_audio_nothing_is_played() -> None:
    assert play([]) is None
    assert play([(1.0, 0.0)]) is None


def test_an_empty_piece_neither_starts_nor_stalls_the_player() -> None:
    assert play([(0.0, 0.0), (1.0, 1.0), (5.0, 0.0)]) == play([(1.0, 1.0)])


@given(GAPS_AND_AUDIO)
def test_all_silence_is_the_worst_lag_behind_the_audio_clock(pieces: list[tuple[float, float]]) -> None:
    """Without tolerance the sum of all waits has a closed form: how far the latest piece lags behind its due time."""
    arrivals = arrivals_of(pieces)
    playback = play(arrivals, tolerance_s=0.0)
    assert playback is not None
    heard_s, worst_s = 0.0, 0.0
    for arrived_s, audio_s in arrivals:
        worst_s = max(worst_s, arrived_s - arrivals[0][0] - heard_s)
        heard_s += audio_s
    assert playback.late_s == pytest.approx(worst_s, abs=1e-6)
    assert playback.end_s == pytest.approx(arrivals[0][0] + heard_s + worst_s, abs=1e-6)


@given(GAPS_AND_AUDIO, st.integers(0, 29), st.floats(0.0, 5.0))
def test_a_piece_that_comes_sooner_never_adds_silence(
    pieces: list[tuple[float, float]], which: int, sooner_s: float
) -> None:
    arrivals = arrivals_of(pieces)
    which = max(1, which % len(arrivals))
    if which == len(arrivals):
        return
    earlier = list(arrivals)
    earlier[which] = (max(arrivals[which - 1][0], arrivals[which][0] - sooner_s), arrivals[which][1])
    before, after = play(arrivals, 0.0), play(earlier, 0.0)
    assert before is not None
    assert after is not None
    assert after.late_s <= before.late_s + 1e-6


@given(GAPS_AND_AUDIO)
def test_tolerance_only_forgives(pieces: list[tuple[float, float]]) -> None:
    strict, tolerant = play(arrivals_of(pieces), 0.0), play(arrivals_of(pieces))
    assert strict is not None
    assert tolerant is not None
    assert tolerant.underruns <= strict.underruns
    assert tolerant.late_s <= strict.late_s + 1e-9
    assert tolerant.end_s == strict.end_s


@given(st.lists(st.floats(0.001, 10.0), min_size=1, max_size=20))
def test_audio_that_is_all_there_plays_without_a_gap(audio_s: list[float]) -> None:
    playback = play([(3.0, seconds) for seconds in audio_s])
    assert playback is not None
    assert playback.underruns == 0
    assert playback.end_s == pytest.approx(3.0 + sum(audio_s))
