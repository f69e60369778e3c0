"""One synthesis, several listeners: all hear everything, nobody takes anything from the others."""

import numpy as np
import pytest

from light_tts.audio_stream import AudioStream
from light_tts.errors import EngineFailure
from light_tts.shared_speech import SharedSpeech
from light_tts.types import AudioChunk, FinishReason


def piece(value):
    return AudioChunk(np.full(240, value, np.float32))


def listener():
    return AudioStream("listener", timeout_s=5, max_pending_chunks=4)


@pytest.fixture
def outcomes():
    return []


@pytest.fixture
def shared(outcomes):
    speech = SharedSpeech("shared", timeout_s=5, max_pending_chunks=2)
    speech.on_over = outcomes.append
    speech.on_cancel = lambda: outcomes.append("cancelled")
    return speech


def heard(stream):
    return np.unique(np.concatenate([chunk.samples for chunk in stream])).tolist()


def test_everybody_hears_everything_also_who_comes_late(shared, outcomes):
    first, late = listener(), listener()
    shared.join(first)
    shared.put(piece(0.1))
    shared.join(late)
    shared.put(piece(0.2))
    shared.end(FinishReason.STOP)
    assert heard(first) == heard(late) == pytest.approx([0.1, 0.2])
    assert np.unique(outcomes[0]).tolist() == pytest.approx([0.1, 0.2])
    assert first.stats.finish == "stop"
    assert not shared.join(listener())


def test_when_the_first_leaves_the_others_still_get_theirs(shared, outcomes):
    first, second = listener(), listener()
    shared.join(first)
    shared.join(second)
    shared.put(piece(0.1))
    first.cancel()
    shared.put(piece(0.2))
    shared.end(FinishReason.STOP)
    assert heard(second) == pytest.approx([0.1, 0.2])
    assert len(outcomes) == 1


def test_when_the_last_one_leaves_the_work_stops(shared, outcomes):
    first, second = listener(), listener()
    shared.join(first)
    shared.join(second)
    first.cancel()
    assert outcomes == []
    second.cancel()
    assert outcomes == [None, "cancelled"]
    assert not shared.join(listener())
    shared.put(piece(0.1))
    shared.end(FinishReason.STOP)
    assert outcomes == [None, "cancelled"]


def test_who_left_before_joining_counts_as_gone(shared, outcomes):
    gone = listener()
    gone.cancel()
    assert shared.join(gone)
    assert outcomes == [None, "cancelled"]


def test_a_failure_reaches_everybody_and_leaves_nothing_to_keep(shared, outcomes):
    listeners = [listener(), listener()]
    for stream in listeners:
        shared.join(stream)
    shared.fail(EngineFailure("broken"))
    shared.end(FinishReason.STOP)
    for stream in listeners:
        with pytest.raises(EngineFailure, match="broken"):
            list(stream)
    assert outcomes == [None]


def test_cancelled_from_the_engines_side_it_ends_for_everybody(shared, outcomes):
    stream = listener()
    shared.join(stream)
    shared.cancel()
    assert [chunk.is_last for chunk in stream] == [True]
    assert stream.stats.finish == "abort"
    assert outcomes == [None, "cancelled"]


def test_speech_that_was_cut_at_the_length_limit_is_heard_but_not_kept(shared, outcomes):
    stream = listener()
    shared.join(stream)
    shared.put(piece(0.1))
    shared.end(FinishReason.LENGTH)
    assert heard(stream) == pytest.approx([0.1])
    assert outcomes == [None]


def test_a_slow_listener_holds_nobody_up(shared):
    shared.join(listener())
    for _ in range(10):
        shared.put(piece(0.1))
    assert shared.has_room


def test_one_listener_is_billed_and_all_know_the_facts(shared):
    first, second = listener(), listener()
    shared.join(first)
    shared.join(second)
    stats = shared.stats
    stats.speech_tokens, stats.llm_ms, stats.segments, stats.is_voice_cached = 25, 3.0, 1, True
    shared.end(FinishReason.STOP)
    assert (first.stats.speech_tokens, first.stats.llm_ms) == (25, 3.0)
    assert (second.stats.speech_tokens, second.stats.llm_ms) == (0, 0.0)
    assert first.stats.segments == second.stats.segments == 1
    assert second.stats.is_voice_cached


def test_who_reads_to_the_end_finds_it_kept_already(shared):
    """Otherwise the same client's next request could miss what it has just heard."""
    stream = listener()
    order = []
    shared.on_over = lambda samples: order.append("kept")
    shared.join(stream)
    put, end = stream.put, stream.end
    stream.put = lambda chunk: (order.append("heard"), put(chunk))
    stream.end = lambda reason: (order.append("ended"), end(reason))
    shared.put(piece(0.1))
    shared.end(FinishReason.STOP)
    assert order == ["heard", "kept", "ended"]


def test_it_counts_as_running_until_the_last_listener_is_done(shared):
    over = []
    shared.on_drained = lambda: over.append(True)
    quick, slow, gone = listener(), listener(), listener()
    for stream in (quick, slow, gone):
        shared.join(stream)
    slow.hold()
    gone.cancel()
    shared.put(piece(0.1))
    shared.end(FinishReason.STOP)
    list(quick)
    list(slow)
    assert over == []
    slow.cancel()
    assert over == [True]


def test_a_failure_that_all_have_heard_of_ends_it(shared):
    over = []
    shared.on_drained = lambda: over.append(True)
    stream = listener()
    shared.join(stream)
    shared.fail(EngineFailure("broken"))
    assert over == []
    with pytest.raises(EngineFailure):
        list(stream)
    assert over == [True]


def test_who_was_cancelled_before_joining_does_not_keep_it_running(shared):
    over = []
    shared.on_drained = lambda: over.append(True)
    gone = listener()
    gone.cancel()
    shared.join(gone)
    assert over == [True]
