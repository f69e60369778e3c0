"""Places and the queue in front of them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_tts.admission import Admission
from light_tts.errors import Overloaded


def test_without_a_queue_those_who_find_no_place_are_refused():
    admission, begun = Admission(max_running=1, max_queue=0), []
    admission.enter("a", lambda: begun.append("a"))
    with pytest.raises(Overloaded, match="1 requests are running, its limit"):
        admission.enter("b", lambda: begun.append("b"))
    admission.leave("a")
    admission.enter("c", lambda: begun.append("c"))
    assert begun == ["a", "c"]


def test_whoever_watches_is_told_when_the_last_place_is_taken_and_when_one_is_free_again():
    admission, told = Admission(max_running=1, max_queue=1), []
    admission.on_change = lambda: told.append(admission.refusal())
    admission.enter("a", lambda: None)
    assert told == []
    admission.enter("b", lambda: None)  # waits, in the last place of the queue
    assert "1 requests are running and 1 wait" in str(told.pop())
    admission.leave("a")  # b moves up
    assert told == [None]
    told.clear()
    admission.leave("nobody")
    assert told == []
    admission.stop()
    assert "shutting down" in str(told.pop())


def test_zero_means_no_limit():
    admission = Admission(max_running=0, max_queue=0)
    for key in range(1000):
        admission.enter(key, lambda: None)
    assert admission.num_running == 1000


def test_the_wait_told_to_the_refused_grows_with_the_queue_and_follows_the_measured_time():
    admission = Admission(max_running=2, max_queue=100)
    before_s = admission.retry_after_s()
    for key in range(50):
        admission.enter(key, lambda: None)
    assert admission.retry_after_s() > before_s
    slow_s = admission.retry_after_s()
    for key in range(50):
        admission.leave(key)  # at once: requests are served much faster than was thought
    for key in range(50):
        admission.enter(key, lambda: None)
    assert admission.retry_after_s() < slow_s
    assert 1.0 <= admission.retry_after_s() <= 60.0


def test_waiting_until_empty_has_a_limit():
    admission = Admission(max_running=1, max_queue=1)
    admission.enter("a", lambda: None)
    admission.enter("b", lambda: None)
    admission.stop()
    with pytest.raises(Overloaded, match="shutting down"):
        admission.enter("c", lambda: None)
    started_s = time.monotonic()
    assert not admission.wait_until_empty(0.05)
    assert time.monotonic() - started_s >= 0.05
    admission.leave("a")
    assert admission.num_running == 1, "who waited gets the place, also while draining"
    admission.leave("b")
    assert admission.wait_until_empty(0.0)


@given(st.integers(1, 4), st.integers(0, 4), st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=80))
def test_nobody_is_lost_overtaken_or_let_in_beyond_the_limits(max_running, max_queue, moves):
    admission, begun, inside, entered = Admission(max_running=max_running, max_queue=max_queue), [], set(), []
    for number, (enters, pick) in enumerate(moves):
        if enters:
            try:
                admission.enter(number, lambda number=number: begun.append(number))
            except Overloaded:
                assert len(inside) == max_running + max_queue
                continue
            inside.add(number)
            entered.append(number)
        elif inside:
            key = sorted(inside)[pick % len(inside)]
            inside.discard(key)
            admission.leave(key)
            admission.leave(key)
        assert admission.num_running == min(len(inside), max_running)
        assert admission.num_running + admission.num_waiting == len(inside)
    assert begun == sorted(begun), "in order of arrival"
    assert set(begun) <= set(entered)


def test_work_that_nobody_waits_for_takes_no_place():
    admission, begun = Admission(max_running=1, max_queue=0), []
    admission.enter_extra("extra", lambda: begun.append("extra"))
    admission.enter("a", lambda: begun.append("a"))
    assert (admission.num_running, begun) == (1, ["extra", "a"])
    assert set(admission.members()) == {"a", "extra"}
    admission.leave("a")
    assert admission.wait_until_empty(0.0)
    admission.leave("extra")
    assert admission.members() == []
    admission.stop()
    with pytest.raises(Overloaded):
        admission.enter_extra("late", lambda: None)
