"""The clock that ends what takes too long."""

import threading
import time

import pytest

from light_tts.deadlines import DeadlineClock


@pytest.fixture
def clock():
    clock = DeadlineClock()
    clock.start()
    yield clock
    clock.close()


def test_deadlines_are_called_in_their_order_and_removed_ones_are_not(clock):
    called, done, now_s = [], threading.Event(), time.monotonic()
    clock.add("late", now_s + 0.15, lambda: (called.append("late"), done.set()))
    clock.add("removed", now_s + 0.05, lambda: called.append("removed"))
    clock.add("early", now_s + 0.02, lambda: called.append("early"))
    clock.remove("removed")
    clock.remove("never added")
    assert done.wait(10)
    assert called == ["early", "late"]
    assert time.monotonic() - now_s >= 0.15
    assert len(clock) == 0


def test_requests_that_end_in_time_leave_nothing(clock):
    for key in range(5000):
        clock.add(key, time.monotonic() + 300, lambda: None)
        clock.remove(key)
    assert len(clock) == 0
    assert len(clock._heap) < 200
    assert not clock._number_of
