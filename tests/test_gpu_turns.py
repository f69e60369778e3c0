"""When the language model gives way to flow and vocoder; that an engine does so is tested with the engine."""

import threading

from light_tts.gpu_turns import NO_TURNS, GpuTurns


def test_first_audio_is_served_from_the_beginning_of_a_call_to_its_end():
    turns = GpuTurns(28)
    assert not turns.serves_first_audio
    turn, other = turns.begin(is_first=True), turns.begin(is_first=True)
    turn.end()
    turn.end()  # harmless
    assert turns.serves_first_audio
    other.end()
    assert not turns.serves_first_audio


def test_other_calls_do_not_count():
    turns = GpuTurns(28)
    turn = turns.begin(is_first=False)
    assert not turns.serves_first_audio
    turn.end()
    assert not turns.serves_first_audio


def test_nobody_waits_where_nothing_is_shared():
    turn = NO_TURNS.begin(is_first=True)
    assert not NO_TURNS.serves_first_audio
    turn.end()


def test_the_beginning_and_the_end_of_a_call_wake_those_who_wait():
    turns, woken = GpuTurns(28), threading.Event()
    turns.call_at_change(woken.set)
    turns.begin(is_first=False).end()
    assert not woken.is_set()
    turn = turns.begin(is_first=True)
    assert woken.is_set()
    woken.clear()
    turn.end()
    assert woken.is_set()
