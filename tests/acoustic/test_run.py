"""What a run tells the planner of its listener, and when it has something new to tell."""

import random
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from light_tts.acoustic.chunking import HopPlan
from light_tts.acoustic.run import AcousticJob, AcousticRun, PlaybackClock
from light_tts.types import SAMPLES_PER_TOKEN, FinishReason


class CountedCondition(threading.Condition):
    num_notices = 0

    def notify(self, n=1):
        self.num_notices += 1
        super().notify(n)


def open_run(stream=True):
    job = AcousticJob(SimpleNamespace(tokens=np.zeros(28)), seed=0, flow_steps=10, stream=stream)
    plan = HopPlan.streaming(28, first_hop_tokens=22) if stream else HopPlan.offline(28)
    flow = SimpleNamespace(kept_tokens=28)
    return AcousticRun(0, job, SimpleNamespace(has_room=True), plan, flow, None, CountedCondition(), opened_s=0.0)


def serve(run, now_s, more_chunks=0):
    hop = run.hop_with(more_chunks)
    run.served(hop, hop.hop_tokens * SAMPLES_PER_TOKEN, now_s)
    run.flow.kept_tokens += hop.hop_tokens


def test_the_clock_runs_from_the_first_audio_on():
    clock = PlaybackClock()
    assert clock.unplayed_s(0, 5.0) is None
    clock.note(0, 24_000, 10.0)
    assert clock.unplayed_s(0, 10.0) == 1.0
    clock.note(0, 12_000, 10.5)
    assert clock.unplayed_s(0, 10.5) == 1.0
    assert clock.unplayed_s(0, 13.0) == pytest.approx(-1.5)


def test_audio_on_its_way_counts_from_when_it_is_expected_until_it_is_there():
    clock = PlaybackClock()
    clock.note(0, 24_000, 10.2)
    assert clock.unplayed_s(0, 10.0) == pytest.approx(1.2)
    clock.arrived(10.3)
    assert clock.unplayed_s(0, 10.3) == pytest.approx(1.0)
    clock.note(0, 24_000, 10.6)
    clock.arrived(10.7)
    assert clock.unplayed_s(0, 10.7) == pytest.approx(1.6)


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


def test_only_tokens_that_make_a_difference_wake_the_decoder():
    run = open_run()
    notices = []
    for count in range(1, 131):
        before = run._news.num_notices
        run.put([7])
        if run._news.num_notices != before:
            notices.append(count)
        run.offer(0.0, is_crowded=True)
    # The first hop of 22, then each further chunk up to 100 tokens; 3 are lookahead.
    assert notices == [25, 50, 75, 100]
    serve(run, 1.0)
    assert run.offer(1.0, is_crowded=True).more_chunks == 3
    # The largest hop there is waits already.
    run.put([7] * 200)
    assert run._news.num_notices == 4


def test_tokens_that_came_while_the_decoder_was_busy_are_seen_at_its_next_look():
    run = open_run()
    run.put([7] * 30)
    run.offer(0.0, is_crowded=False)
    serve(run, 0.1)
    run.put([7] * 60)
    offer = run.offer(0.2, is_crowded=False)
    assert (offer.frames, offer.more_chunks) == (2 * 25, 1)


def test_a_buffered_run_wakes_the_decoder_at_its_end_only():
    run = open_run(stream=False)
    run.put([7] * 500)
    assert run._news.num_notices == 0
    assert run.offer(0.0, is_crowded=False) is None
    run.end(FinishReason.STOP)
    assert run._news.num_notices == 1
    assert run.offer(0.0, is_crowded=False).frames == 2 * 528


@pytest.mark.parametrize("seed", range(20))
def test_what_is_remembered_between_two_looks_is_what_a_fresh_look_gives(seed):
    picks = random.Random(seed)
    run, now_s = open_run(), 0.0
    num_tokens = picks.randrange(10, 400)
    while not run.plan.is_finished:
        now_s += picks.random() / 10
        count = min(picks.choice([1, 1, 1, 7, 40]), num_tokens - len(run.tokens))
        run.put([7] * count)
        if len(run.tokens) == num_tokens and run.reason is None and picks.random() < 0.5:
            run.end(FinishReason.STOP)
        crowded = picks.random() < 0.5
        offer = run.offer(now_s, is_crowded=crowded, boundary_wait_s=0.015)
        run._standing = None
        assert run.offer(now_s, is_crowded=crowded, boundary_wait_s=0.015) == offer
        if offer is not None and picks.random() < 0.3:
            serve(run, now_s, picks.randint(0, offer.more_chunks))


def test_a_reader_that_makes_room_while_it_is_looked_for_is_not_missed():
    run = open_run()
    run.put([7] * 30)
    answers = [False, True]
    run.sink = type("Ears", (), {"has_room": property(lambda self: answers.pop(0))})()
    assert run.offer(0.0, is_crowded=False) is not None
    run.sink = SimpleNamespace(has_room=False)
    assert run.offer(0.0, is_crowded=False) is None
    assert run.is_paused
    run.sink = SimpleNamespace(has_room=True)
    assert run.offer(0.0, is_crowded=False) is not None
    assert not run.is_paused


def test_a_run_says_when_its_next_hop_could_be_its_last():
    run = open_run()
    run.put([0] * 80)
    serve(run, 0.0)
    offer = run.offer(0.1, is_crowded=True)
    assert offer is not None
    assert not offer.ends
    run.end(FinishReason.STOP)
    offer = run.offer(0.1, is_crowded=True)
    assert offer is not None
    assert offer.ends
    assert offer.ends_within(2 * (80 - 22))
    assert not offer.ends_within(2 * 50)


def test_a_long_rest_takes_more_than_one_hop():
    run = open_run()
    run.put([0] * 300)
    run.end(FinishReason.STOP)
    serve(run, 0.0)
    offer = run.offer(0.1, is_crowded=True)
    assert offer is not None
    assert not offer.ends


def test_a_run_whose_states_found_no_room_may_take_as_much_as_it_computes_again():
    run = open_run()
    run.put([0] * 600)
    for more_chunks in (0, 3, 3):
        hop = run.hop_with(more_chunks)
        run.served(hop, hop.hop_tokens * SAMPLES_PER_TOKEN, 0.0)
        offer = run.offer(0.1, is_crowded=True)
        assert offer is not None
    spoken = 22 + 100 + 100
    assert run.flow.kept_tokens == 28  # the prompt's
    assert offer.again_frames == 2 * spoken
    assert offer.more_chunks == spoken // 25 - 1
    assert run.hop_with(offer.more_chunks).hop_tokens == 200
