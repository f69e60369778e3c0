"""Shares of callers: at once, per minute, each its own, given back when a stream is left."""

import pytest

from light_tts.audio_stream import AudioStream
from light_tts.caller_limits import CallerLimits, RateBucket
from light_tts.errors import EngineFailure, Overloaded, RateLimited
from light_tts.intake import Intake
from light_tts.settings import EngineSettings
from light_tts.types import FinishReason, SynthesisRequest


def stream():
    return AudioStream("id", timeout_s=30, max_pending_chunks=8)


def test_a_caller_has_so_many_at_once_and_others_have_theirs():
    limits = CallerLimits(2, 0)
    running = [stream(), stream()]
    for each in running:
        limits.enter("a", each)
    with pytest.raises(RateLimited, match="2 requests running") as refused:
        limits.enter("a", stream())
    assert refused.value.retry_after_s >= 1.0
    limits.enter("b", stream())
    running[0].cancel()
    limits.enter("a", stream())


def test_a_request_counts_until_its_audio_was_read():
    limits = CallerLimits(1, 0)
    first = stream()
    limits.enter("a", first)
    first.end(FinishReason.STOP)
    with pytest.raises(RateLimited):
        limits.enter("a", stream())
    assert [chunk.is_last for chunk in first] == [True]
    limits.enter("a", stream())


def test_a_request_that_finds_no_place_costs_nothing_of_the_minute():
    limits = CallerLimits(1, 2)
    first = stream()
    limits.enter("a", first)
    for _ in range(5):
        with pytest.raises(RateLimited, match="running"):
            limits.enter("a", stream())
    first.cancel()
    limits.enter("a", stream())


def test_a_bucket_fills_again():
    now_s = [0.0]
    bucket = RateBucket(60, clock=lambda: now_s[0])
    for _ in range(60):
        assert bucket.wait_s() == 0.0
        bucket.take()
    assert bucket.wait_s() == pytest.approx(1.0)
    now_s[0] = 1.5
    assert bucket.wait_s() == 0.0
    bucket.take()
    assert bucket.wait_s() == pytest.approx(0.5)
    now_s[0] = 1000.0
    assert bucket.wait_s() == 0.0
    for _ in range(60):
        bucket.take()
    assert bucket.wait_s() > 0.0


@pytest.fixture
def intake():
    settings = EngineSettings(max_concurrent_requests=1, key_max_concurrent=1)
    intake = Intake(settings, decoder=None, num_threads=1, when_revived=lambda begin_again: None)
    yield intake
    intake.cancel_all()
    intake.close()


def test_every_request_with_a_caller_is_counted_where_it_gets_in(intake):
    request = SynthesisRequest("Hello.", caller="a")
    first = intake.open_stream(AudioStream, request)
    with pytest.raises(RateLimited):
        intake.open_stream(AudioStream, request)
    intake.open_stream(AudioStream, SynthesisRequest("Hello."))
    intake.open_stream(AudioStream, request, of_caller=False)
    first.cancel()
    intake.open_stream(AudioStream, request)


def test_a_request_that_is_not_let_in_gives_its_share_back(intake):
    def prepare(narration):
        raise EngineFailure("never reached")

    intake.admission.enter(stream(), lambda: None)
    request = SynthesisRequest("Hello.", caller="a")
    for _ in range(3):
        waiting = intake.open_stream(AudioStream, request)
        with pytest.raises(Overloaded):
            intake.begin(waiting, prepare)
