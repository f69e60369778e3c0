"""Runs far ahead of their listeners rest, while there are others, and say the same."""

import threading

import pytest

from light_tts.llm.lead_limit import LeadLimit
from tests.llm.test_engine import WaitingSink, alone
from tests.llm.test_scheduler import one_way
from tests.llm.tiny_llm import RecordingSink, make_engine, prompt_of, run_dry


def test_the_lead_is_what_has_been_made_and_not_yet_heard():
    limit = LeadLimit(2.0)
    assert not limit.is_exceeded(50, 10.0, 10.0)
    assert limit.is_exceeded(51, 10.0, 10.0)
    assert not limit.is_exceeded(75, 10.0, 11.0)
    assert limit.is_exceeded(76, 10.0, 11.0)
    assert limit.goes_on_at(75, 10.0) == pytest.approx(12.0)


def test_who_is_not_heard_or_has_said_nothing_never_rests():
    assert not LeadLimit(2.0).is_exceeded(0, None, 10.0)
    assert not LeadLimit(0.0).is_exceeded(90, 10.0, 10.0)
    run = one_way(0, 2, 2, 100)
    run.first_code_s = 10.0
    for _ in range(90):
        run.layout.accept(1)
    assert not run.may_rest(LeadLimit(2.0), 10.0)
    run.is_live = True
    assert run.may_rest(LeadLimit(2.0), 10.0)
    assert run.goes_on_at(LeadLimit(2.0)) == pytest.approx(12.6)


def jobs_of(lm, count):
    return [(prompt_of(lm, [index, 5, 6, 7], [3] * index, [4] * 9), index, None) for index in range(count)]


def test_live_runs_rest_for_each_other_and_say_the_same(lm):
    engine = make_engine(lm, max_lead_s=0.2)
    engine.start()
    try:
        sinks = []
        for prompt, seed, _ in jobs_of(lm, 3):
            sinks.append(WaitingSink())
            engine.submit(prompt, sinks[-1], seed=seed, is_live=True)
        for sink in sinks:
            assert sink.finished.wait(30)
    finally:
        engine.close()
    from light_tts.types import SamplingOptions

    for (prompt, seed, _), sink in zip(jobs_of(lm, 3), sinks, strict=True):
        assert sink.outcome == alone(lm, (prompt, seed, None, SamplingOptions()))
    assert engine.stats().kv_blocks_used == 0


def test_who_rests_gives_its_place_to_those_who_wait(lm):
    engine = make_engine(lm, max_lead_s=0.2, max_running=1)
    first, second = RecordingSink(), RecordingSink()
    for seed, sink in enumerate((first, second)):
        engine.submit(prompt_of(lm, [1, 2, 3, 4]), sink, seed=seed, is_live=True)
    while not second.codes:
        assert engine.step()
    assert 5 <= len(first.codes) < 20
    assert engine.stats().resting == 1


def test_a_run_that_is_alone_or_not_live_goes_through(lm):
    engine, live, other = make_engine(lm, max_lead_s=0.2), RecordingSink(), RecordingSink()
    engine.submit(prompt_of(lm, [1, 2, 3, 4]), live, seed=0, is_live=True)
    run_dry(engine)
    assert live.num_ends == 1
    for seed in range(2):
        engine.submit(prompt_of(lm, [1, 2, 3, 4]), other if seed else RecordingSink(), seed=seed)
    run_dry(engine)
    assert other.num_ends == 1


def test_closing_does_not_wait_for_those_who_rest(lm):
    engine = make_engine(lm, max_lead_s=0.2)
    engine.start()
    reached = threading.Event()

    class Counting(WaitingSink):
        def put(self, tokens):
            super().put(tokens)
            if len(self.codes) > 5:
                reached.set()

    for seed in range(2):
        engine.submit(prompt_of(lm, [1] * 12), Counting(), seed=seed, is_live=True)
    assert reached.wait(30)
    engine.close()
    assert not engine.is_alive
