"""A front end's engine against an engine in another process, both here: nothing may differ but the way between."""

import threading
import time
from dataclasses import fields

import numpy as np
import pytest

from light_tts.errors import BadAudio, EngineFailure, InvalidRequest, NotReady, Overloaded, TextTooLong, UnknownVoice
from light_tts.frontdoor.remote_observer import RemoteObserver
from light_tts.server.request_observer import RequestSummary
from light_tts.types import (
    Mode,
    PreparedText,
    ReferenceAudio,
    RegisteredVoice,
    RequestStats,
    SamplingOptions,
    SynthesisRequest,
)
from tests.server.fake_engine import sine


def samples_of(stream):
    return np.concatenate([chunk.samples for chunk in stream])


def wait_until(condition):
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def summary(**changes):
    values = {
        "route": "/v1/audio/speech", "status": 200, "is_synthesis": True, "outcome": "success", "rejection": None,
        "total_s": 0.5, "first_audio_s": 0.1, "text_chars": 3, "late_s": (0.0, 0.2),
        "stats": RequestStats(audio_s=2.0, speech_tokens=50),
    }  # fmt: skip
    return RequestSummary(**(values | changes))


def test_the_same_samples_arrive(pair):
    remote = pair.open_front_end()
    with remote.submit(SynthesisRequest("hello")) as stream:
        assert np.array_equal(samples_of(stream), sine(1.0))
    assert stream.stats.finish == "stop"
    assert stream.stats.text_tokens == len("hello")
    assert stream.stats.chunks == 5
    assert stream.stats.audio_s == pytest.approx(1.0)


async def test_they_are_read_from_an_event_loop_too(pair):
    remote = pair.open_front_end()
    async with remote.submit(SynthesisRequest("hello")) as stream:
        pieces = [chunk.samples async for chunk in stream]
    assert np.array_equal(np.concatenate(pieces), sine(1.0))


FULL = SynthesisRequest(
    "text", "en_male", Mode.INSTRUCT, "slowly", False, 1.5, 7, 5, False, "en", "cosyvoice",
    SamplingOptions(0.5, 3, 0.7, True), 9.0, phrase_cache=True, is_probe=True, caller="key 1",
    request_id="id",
)  # fmt: skip


@pytest.mark.parametrize(
    "voice", [None, "en_male", RegisteredVoice("en_male", "other words"), ReferenceAudio(b"\x00wav", "words")]
)
def test_every_field_of_a_request_arrives(pair, voice):
    values = {item.name: getattr(FULL, item.name) for item in fields(SynthesisRequest)} | {"voice": voice}
    remote = pair.open_front_end()
    samples_of(remote.submit(SynthesisRequest(**values)))
    [arrived] = pair.engine.requests
    for name, value in values.items():
        if isinstance(value, ReferenceAudio):
            assert (arrived.voice.data, arrived.voice.prompt_text) == (value.data, value.prompt_text)
        elif name != "prepared_text":
            assert getattr(arrived, name) == value, name
    assert arrived.prepared_text.piece_ids == (tuple(map(ord, "text")),)


def test_errors_keep_their_kind_and_what_they_say(pair):
    remote = pair.open_front_end()
    pair.engine.overloaded = True
    with pytest.raises(Overloaded, match="The server is busy") as caught:
        samples_of(remote.submit(SynthesisRequest("hello")))
    assert caught.value.retry_after_s == 2.5
    pair.engine.overloaded = False
    pair.engine.error = BadAudio("It is no recording.", "audio")
    with pytest.raises(BadAudio, match="no recording") as caught:
        samples_of(remote.submit(SynthesisRequest("hello")))
    assert caught.value.field == "audio"
    with pytest.raises(TextTooLong):
        remote.submit(SynthesisRequest("x" * 2000))
    assert remote._streams == {}


def test_where_there_is_no_place_no_text_is_prepared(pair):
    early = pair.open_front_end()
    pair.engine.overloaded = True
    pair.engine.places_changed()
    late = pair.open_front_end()  # comes when the engine is full already
    for remote in (early, late):
        wait_until(lambda remote=remote: remote._full is not None)
        prepare, remote._text.prepare = remote._text.prepare, pytest.fail
        with pytest.raises(Overloaded, match="The server is busy") as caught:
            remote.submit(SynthesisRequest("hello"))
        assert caught.value.retry_after_s == 2.5
        with pytest.raises(InvalidRequest):
            remote.submit(SynthesisRequest("hello", speed=99.0))
        assert remote._streams == {}
        remote._text.prepare = prepare
    pair.engine.overloaded = False
    pair.engine.places_changed()
    wait_until(lambda: early._full is None)
    assert np.array_equal(samples_of(early.submit(SynthesisRequest("hello"))), sine(1.0))


def test_requests_that_the_engine_fills_up_before_are_refused_without_preparation(pair):
    """They wait for the pool while the last place goes."""
    remote = pair.open_front_end()
    preparing, go_on, prepared = threading.Event(), threading.Event(), []

    def slow(request):
        prepared.append(request.text)
        preparing.set()
        go_on.wait(10)
        return PreparedText((), ((1,),))

    remote._text.prepare = slow
    busy = [remote.submit(SynthesisRequest("first")) for _ in range(remote._settings.frontend.threads)]
    assert preparing.wait(5)
    waiting = remote.submit(SynthesisRequest("second"))
    pair.engine.overloaded = True
    pair.engine.places_changed()
    wait_until(lambda: remote._full is not None)
    go_on.set()
    with pytest.raises(Overloaded):
        samples_of(waiting)
    assert "second" not in prepared
    for stream in busy:
        stream.cancel()


@pytest.mark.parametrize("fields", [{"phrase_cache": True}, {"is_probe": True}])
def test_what_needs_no_place_is_asked_of_the_engine_all_the_same(pair, fields):
    remote = pair.open_front_end()
    pair.engine.refusal, answer = lambda: Overloaded("The server is busy."), pair.engine.refusal
    pair.engine.places_changed()
    wait_until(lambda: remote._full is not None)
    pair.engine.refusal = answer  # the engine would take these
    assert np.array_equal(samples_of(remote.submit(SynthesisRequest("hello", **fields))), sine(1.0))


def test_a_reader_who_leaves_stops_the_work(pair):
    pair.engine.chunks, pair.engine.delay_s = 1000, 0.01
    remote = pair.open_front_end()
    with remote.submit(SynthesisRequest("hello")) as stream:
        next(iter(stream))
    assert pair.engine.cancelled.wait(5)
    assert not pair.engine.running
    assert remote._streams == {}


def test_a_reader_who_leaves_while_the_text_is_prepared_leaves_nothing_behind(pair):
    remote = pair.open_front_end()
    preparing, go_on = threading.Event(), threading.Event()
    prepare = remote._text.prepare

    def slow(request):
        preparing.set()
        go_on.wait(10)
        return prepare(request)

    remote._text.prepare = slow
    with remote.submit(SynthesisRequest("hello")):
        assert preparing.wait(5)
    go_on.set()
    remote._text.prepare = prepare
    samples_of(remote.submit(SynthesisRequest("another")))
    assert [request.text for request in pair.engine.requests] == ["another"]


def test_the_time_a_text_takes_here_is_part_of_its_preparation(pair):
    remote = pair.open_front_end()
    remote._text.prepare = lambda request: time.sleep(0.05) or PreparedText((), ((1,),))
    with remote.submit(SynthesisRequest("hello")) as stream:
        samples_of(stream)
    assert stream.stats.prepare_ms >= 50


def test_a_slow_reader_holds_up_the_engine_and_lets_it_go_on(pair):
    pair.engine.chunks, pair.engine.stall_after = 20, 8
    remote = pair.open_front_end()
    chunks = iter(remote.submit(SynthesisRequest("hello")))
    wait_until(lambda: pair.engine.streams and pair.engine.streams[0].stats.chunks == 8)
    [source] = pair.engine.streams
    source._max_pending_chunks = 8
    assert not source.has_room
    woken = threading.Event()
    source.on_read = woken.set
    next(chunks)
    assert woken.wait(5)
    assert source.has_room


def test_a_front_end_that_dies_takes_its_requests_along_and_no_others(pair):
    pair.engine.chunks, pair.engine.delay_s = 50, 0.02
    dying, staying = pair.open_front_end(), pair.open_front_end()
    lost, kept = dying.submit(SynthesisRequest("lost")), staying.submit(SynthesisRequest("kept"))
    next(iter(lost))
    RemoteObserver(dying).began("/v1/audio/speech")
    wait_until(lambda: b"tts_requests_in_flight 1.0" in pair.house.page())
    dying._is_closing = True
    dying._channel.close()
    wait_until(lambda: len(pair.engine.running) == 1)
    wait_until(lambda: b"tts_requests_in_flight 0.0" in pair.house.page())
    assert b"tts_requests_aborted_total 1.0" in pair.house.page()
    assert len(samples_of(kept)) == len(sine(10.0))


def test_an_engine_that_dies_fails_its_requests_and_the_next_one_serves(pair):
    pair.engine.stall_after = 1
    remote = pair.open_front_end()
    stream = remote.submit(SynthesisRequest("hello"))
    chunks = iter(stream)
    next(chunks)
    old = pair.house
    pair.engine.stall_after = None
    pair.address += "2"
    pair.open_house()
    old.close()
    with pytest.raises(NotReady):
        next(chunks)
    assert remote._streams == {}
    wait_until(lambda: remote._channel is not None)
    assert not remote.is_ready
    with pytest.raises(NotReady):
        remote.submit(SynthesisRequest("hello"))
    pair.house.welcome(pair.engine)
    wait_until(lambda: remote.is_ready)
    assert len(samples_of(remote.submit(SynthesisRequest("hello")))) == len(sine(1.0))


def test_without_another_engine_it_says_that_it_has_gone(pair):
    remote = pair.open_front_end()
    house, pair.house = pair.house, None
    house.close()
    wait_until(lambda: pair.reasons == [None])
    assert not remote.is_ready
    assert "has ended" in remote.health()["error"]
    assert remote.gpu_memory() is None


def test_an_engine_that_cannot_be_loaded_says_why(pair, tmp_path):
    pair.address = str(tmp_path / "broken")
    pair.house.close()
    pair.open_house()
    threading.Timer(0.1, pair.house.refuse, [EngineFailure("llm.pt is missing.")]).start()
    assert not pair.open_front_end(is_welcome=False).is_ready
    wait_until(lambda: pair.reasons)
    assert str(pair.reasons[0]) == "llm.pt is missing."


def test_an_engine_that_cannot_serve_is_not_ready_at_any_front_end(pair):
    remote = pair.open_front_end()
    pair.engine.ready, pair.engine.failure = False, "acoustic: the thread has died"
    health = remote.health()
    assert (health["ready"], health["error"]) == (False, "acoustic: the thread has died")
    with pytest.raises(NotReady):
        samples_of(remote.submit(SynthesisRequest("hello")))


def test_health_and_names_are_the_engines(pair):
    remote = pair.open_front_end()
    health = remote.health()
    assert (health["ready"], health["model"], health["http_workers"]) == (True, "test-model", 1)
    assert (remote.model_name, remote.model_names) == ("test-model", ["cosyvoice"])
    pair.engine.gpu_memory = lambda: {"device": "GPU", "used_bytes": 3}
    assert remote.gpu_memory() == {"device": "GPU", "used_bytes": 3}


def test_voices_are_the_same_at_every_front_end(pair):
    one, other = pair.open_front_end(), pair.open_front_end()
    assert one.voices.names() == other.voices.names() == ["en_female", "en_male", "zh_female"]
    added = one.voices.add("mine", b"recording", "hello there", "en", "she agreed")
    assert (added.id, added.prompt_text, added.has_prompt, added.has_transcript) == ("mine", "hello there", True, True)
    assert pair.engine.voices.consents == {"mine": "she agreed"}
    wait_until(lambda: "mine" in other.voices.names())
    assert other.voices.get("mine").language == "en"
    assert other.voices.added_at_s("mine") == 1_700_000_000.5
    assert (other.voices.default_for("你好"), other.voices.default_for("hi")) == ("zh_female", "en_female")
    other.voices.remove("mine")
    wait_until(lambda: "mine" not in one.voices.names())
    with pytest.raises(UnknownVoice, match="Voices: en_female, en_male, zh_female"):
        one.voices.get("mine")


def test_voices_that_another_program_adds_are_found(pair, tmp_path):
    directory = tmp_path / "voices"
    pair.engine.voices.directory = directory
    remote = pair.open_front_end()
    assert "mine" not in remote.voices.names()
    pair.engine.voices.add("mine", b"")
    assert "mine" not in remote.voices.names()
    directory.mkdir()
    assert "mine" in remote.voices.names()
    asked = []
    remote.voices._ask = asked.append
    remote.voices.names()
    assert asked == []


def test_what_front_ends_tell_is_counted_once_for_all(pair):
    one, other = RemoteObserver(pair.open_front_end()), RemoteObserver(pair.open_front_end())
    for observer in (one, other, other):
        observer.began("/v1/audio/speech")
        observer.ended(summary())
    other.ended(summary(is_synthesis=False, route="/health", outcome="failure", status=503, rejection="not_ready"))
    wait_until(lambda: b'tts_requests_rejected_total{reason="not_ready"} 1.0' in one.page())
    page = one.page().decode()
    assert "lightllm_request_success_total 3.0" in page
    assert "tts_requests_in_flight 0.0" in page
    assert "tts_audio_seconds_total 6.0" in page
    assert "tts_stream_underrun_seconds_count 6.0" in page
    assert 'tts_http_responses_total{route="/v1/audio/speech",status="2xx"} 3.0' in page


def test_the_last_front_end_to_go_is_noticed(pair):
    one, other = pair.open_front_end(), pair.open_front_end()
    one.close()
    wait_until(lambda: other.health()["http_workers"] == 1)
    assert not pair.deserted.is_set()
    other.close()
    assert pair.deserted.wait(5)


def test_text_is_read_here_and_spoken_there(pair):
    remote = pair.open_front_end()
    stream = remote.open_text_stream(SynthesisRequest("one two"))
    stream.feed(" three")
    stream.flush()
    stream.finish_text()
    assert len(samples_of(stream)) == 3 * len(sine(0.2))
    [source] = pair.engine.streams
    assert [call for call in source.calls if call[0] == "feed"] == [("feed", "one two"), ("feed", " three")]


def test_discarded_audio_is_not_heard_even_when_it_was_on_its_way(pair):
    remote = pair.open_front_end()
    stream = remote.open_text_stream(SynthesisRequest(""))
    with stream._receiving:  # what arrives is not taken up yet
        stream.feed("one two")
        wait_until(lambda: pair.engine.streams and pair.engine.streams[0].stats.chunks == 2)
        discarding = threading.Thread(target=stream.discard)
        discarding.start()
    discarding.join()
    stream.feed("three")
    stream.finish_text()
    assert len(samples_of(stream)) == len(sine(0.2))


def test_a_stranger_who_sends_nonsense_is_put_out(pair):
    connection = pair.connect()
    connection.sendall(b"\x05\x00\x00\x00hello")
    assert connection.recv(1) == b""
    connection.close()
    assert pair.open_front_end().is_ready


def test_another_version_is_refused(pair, monkeypatch):
    monkeypatch.setattr("light_tts.frontdoor.remote_engine.__version__", "0.0.0")
    pair.open_front_end(is_welcome=False)
    wait_until(lambda: pair.reasons)
    assert "version 0.0.0" in str(pair.reasons[0])


def test_what_was_found_in_the_cache_is_known_with_the_first_audio(pair):
    """The header that says so goes out before it."""
    pair.engine.phrase_cached = True
    with pair.open_front_end().submit(SynthesisRequest("hello", phrase_cache=True)) as stream:
        next(iter(stream))
        assert stream.stats.is_phrase_cached is True
    assert pair.engine.requests[0].phrase_cache is True
