"""How the language model gives way to flow and vocoder: the rule, and that an engine follows it."""

import math
import threading

import pytest

from light_tts.gpu_turns import NO_TURNS, GpuTurns


def yes():
    return True


def no():
    return False


def test_steps_begin_at_once_while_no_call_is_under_way():
    turns = GpuTurns(28, 0.5)
    assert turns.wait_s(0.0, 0.002, no) == 0.0
    turns.begin(is_first=True).end()
    assert turns.wait_s(0.0, 0.002, no) == 0.0


def test_steps_take_their_share_of_a_call():
    turns = GpuTurns(28, 0.25)
    turns.begin(is_first=False)
    assert turns.wait_s(0.0, 0.002, no) == pytest.approx(0.008)
    assert turns.wait_s(0.003, 0.002, no) == pytest.approx(0.005)
    assert turns.wait_s(0.009, 0.002, no) == 0.0


def test_only_urgent_steps_begin_while_somebody_waits_for_first_audio():
    turns = GpuTurns(28, 0.25)
    first = turns.begin(is_first=True)
    assert turns.wait_s(1.0, 0.002, no) == math.inf
    assert turns.wait_s(1.0, 0.002, yes) == 0.0
    turns.begin(is_first=False)
    first.end()
    first.end()
    assert turns.wait_s(1.0, 0.002, no) == 0.0


def test_nobody_waits_where_nothing_is_shared():
    turn = NO_TURNS.begin(is_first=True)
    try:
        assert NO_TURNS.wait_s(0.0, 1.0, no) == 0.0
    finally:
        turn.end()


def test_the_end_of_a_call_wakes_those_who_wait():
    turns, woken = GpuTurns(28, 0.5), threading.Event()
    turns.call_at_end(woken.set)
    turn = turns.begin(is_first=True)
    assert not woken.is_set()
    turn.end()
    assert woken.is_set()
