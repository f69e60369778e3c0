"""The life of a backend's thread, with a backend that only counts down."""

import threading
from functools import partial

import pytest

from light_tts.errors import Cancelled, EngineFailure, StageLost
from light_tts.llm.engine_thread import EngineThread

WAIT_S = 30.0


class Countdown(EngineThread):
    """Takes as many turns as it was told to."""

    def __init__(self):
        super().__init__()
        self.num_left = self.num_turns = 0
        self.ended = threading.Event()
        self.failures, self.busy_values = [], []
        self.break_at = None
        self.next_s = None

    def count(self, num_turns):
        with self._wake:
            self._refuse_if_gone()
            self._command(partial(self._begin, num_turns))

    def _begin(self, num_turns):
        self.num_left += num_turns

    def _turn(self):
        self._obey()
        if not self.num_left:
            return False
        self.busy_values.append(self.busy_since_s)
        self.num_left -= 1
        self.num_turns += 1
        if self.num_turns == self.break_at:
            raise RuntimeError("lost count")
        if not self.num_left:
            self.ended.set()
        return True

    def _next_turn_s(self):
        return self.next_s

    def _fail_all(self, error):
        self.failures.append(error)
        with self._wake:
            self._commands.clear()


@pytest.fixture
def countdown():
    made = Countdown()
    made.start()
    yield made
    made.close()


def wait_for(event):
    assert event.wait(WAIT_S)


def test_commands_are_obeyed_in_their_order_on_the_thread(countdown):
    seen, over = [], threading.Event()
    for number in range(5):
        countdown._command(partial(seen.append, number))
    countdown._command(lambda: seen.append(threading.current_thread().name))
    countdown._command(over.set)
    wait_for(over)
    assert seen == [0, 1, 2, 3, 4, "llm"]


def test_it_takes_turns_while_there_is_something_to_compute(countdown):
    countdown.count(20)
    wait_for(countdown.ended)
    assert countdown.num_turns == 20
    assert all(isinstance(value, float) for value in countdown.busy_values)


def test_what_is_told_before_the_start_is_done_after_it():
    countdown = Countdown()
    countdown.count(3)
    assert not countdown.is_alive
    countdown.start()
    wait_for(countdown.ended)
    countdown.close()
    assert countdown.num_turns == 3


def test_it_wakes_by_itself_when_the_backend_says_when():
    countdown = Countdown()
    countdown.num_left, countdown.next_s = 2, 0.0
    countdown.start()
    wait_for(countdown.ended)
    countdown.close()


def test_closing_fails_what_runs_refuses_what_comes_and_may_be_repeated(countdown):
    countdown.close()
    countdown.close()
    assert not countdown.is_alive
    assert countdown.busy_since_s is None
    assert [type(error) for error in countdown.failures] == [Cancelled, Cancelled]
    with pytest.raises(EngineFailure, match="closed"):
        countdown.count(1)


def test_who_breaks_fails_everybody_tells_of_it_and_can_be_started_again(countdown):
    told = threading.Event()
    failed_before = []

    def on_death():
        failed_before.extend(countdown.failures)
        told.set()

    countdown.on_death, countdown.break_at = on_death, 4
    countdown.count(10)
    wait_for(told)
    countdown.join()
    assert [type(error) for error in failed_before] == [StageLost]
    assert "lost count" in str(countdown.error)
    assert not countdown.is_alive
    assert countdown.busy_since_s is None
    with pytest.raises(StageLost, match="lost count"):
        countdown.count(1)
    countdown.start()
    assert countdown.is_alive
    assert countdown.error is None
    countdown.count(1)
    wait_for(countdown.ended)


def test_it_cannot_be_started_twice(countdown):
    with pytest.raises(AssertionError, match="already running"):
        countdown.start()


def test_waiting_for_news_ends_with_a_command_or_when_asked_again(countdown):
    asked, over = [], threading.Event()

    def must_wait():
        asked.append(True)
        return len(asked) <= 2

    def wait():
        countdown._wait_for_news(must_wait)
        over.set()

    countdown._command(wait)
    while not over.wait(0.01):
        countdown._wake_up()
    assert len(asked) == 3
    over.clear()
    asked.clear()
    countdown._command(wait)
    countdown._command(lambda: None)
    wait_for(over)
