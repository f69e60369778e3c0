"""Life and death of a request: places, deadlines, cancelling at any moment, stages that die. Real model and threads."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from light_tts.audio_stream import AudioStream
from light_tts.engine import TTSEngine
from light_tts.errors import DeadlineExceeded, EngineFailure, LightTTSError, Overloaded
from light_tts.events import NoEvents
from light_tts.settings import EngineSettings, FrontendSettings, LLMSettings, ModelSettings, Settings
from light_tts.types import SynthesisRequest

TEXT = "Good morning."
LONG_TEXT = "今天天气真不错，我们一起去公园散步吧。" * 6
WAIT_S = 30.0


class CountingEvents(NoEvents):
    def __init__(self) -> None:
        self.restarted: list[str] = []
        self.retried = 0

    def stage_restarted(self, stage: str) -> None:
        self.restarted.append(stage)

    def request_retried(self) -> None:
        self.retried += 1


def load(tmp_path: object, **limits: float) -> TTSEngine:
    settings = Settings(
        model=ModelSettings(cpu_threads=1),
        llm=LLMSettings(max_total_tokens=8192),
        frontend=FrontendSettings(voices_dir=tmp_path),  # type: ignore[arg-type]
        engine=EngineSettings(**limits),  # type: ignore[arg-type]
    )
    return TTSEngine.load(settings, CountingEvents())


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TTSEngine]:
    with load(tmp_path_factory.mktemp("voices"), max_concurrent_requests=2, max_queue=3, max_restarts=100) as loaded:
        yield loaded


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        threading.Event().wait(0.005)


def is_empty(engine: TTSEngine) -> bool:
    health = engine.health()
    llm, acoustic = health["llm"], health["acoustic"]
    busy = health["running"] + health["queued"] + llm["running"] + llm["waiting"] + llm["parked"]
    held = llm["kv_blocks_used"] + acoustic["runs"] + acoustic["stream_cache_bytes"] + len(engine._intake._deadlines)
    return not busy and not held and not any(len(llm._live) for llm in engine._llms.values())


def samples_of(stream: AudioStream) -> np.ndarray:
    with stream:
        return np.concatenate([chunk.samples for chunk in stream])


def speak(engine: TTSEngine, text: str = TEXT, **fields: object) -> np.ndarray:
    return samples_of(engine.submit(SynthesisRequest(text, **fields)))  # type: ignore[arg-type]


# places


def test_those_who_find_no_place_wait_in_order_and_the_rest_is_refused(engine: TTSEngine) -> None:
    streams = [engine.submit(SynthesisRequest(LONG_TEXT if k < 2 else TEXT, seed=k)) for k in range(5)]
    assert (engine.health()["running"], engine.health()["queued"]) == (2, 3)
    with pytest.raises(Overloaded, match=r"2 requests are running and 3 wait") as refused:
        engine.submit(SynthesisRequest(TEXT))
    assert refused.value.retry_after_s >= 1.0
    streams[2].cancel()
    assert engine.health()["queued"] == 2
    streams[0].cancel()
    streams[1].cancel()
    for stream in streams[3:]:
        assert samples_of(stream).size
        assert stream.stats.queue_ms > 0
    first, second = (stream.created_s + stream.stats.queue_ms / 1000.0 for stream in streams[3:])
    assert first <= second
    wait_until(lambda: is_empty(engine), "not everything was freed")


def test_a_deadline_ends_requests_that_run_and_requests_that_wait(engine: TTSEngine) -> None:
    streams = [engine.submit(SynthesisRequest(LONG_TEXT, seed=k, timeout_s=0.3)) for k in range(3)]
    # Nobody reads, and still they end.
    wait_until(lambda: is_empty(engine), "the deadline did not free the requests")
    for stream in streams:
        with pytest.raises(DeadlineExceeded, match=r"0\.3 s"):
            samples_of(stream)
        assert stream.stats.finish == "error"


def test_a_request_keeps_its_place_until_its_reader_is_done(engine: TTSEngine) -> None:
    first, second = (engine.submit(SynthesisRequest(TEXT, stream=False, seed=k)) for k in (1, 2))
    second.hold()
    wait_until(lambda: first.is_finished and second.is_finished, "they were never spoken")
    assert engine.health()["running"] == 2
    assert list(first)
    assert list(second)
    assert engine.health()["running"] == 1, "the second is still being passed on"
    second.cancel()
    assert second.stats.finish == "stop"
    wait_until(lambda: is_empty(engine), "a place was not given back")


def test_a_request_that_nobody_reads_gives_its_place_back_at_its_deadline(engine: TTSEngine) -> None:
    stream = engine.submit(SynthesisRequest(TEXT, stream=False, seed=1, timeout_s=60.0))
    stream.hold()
    wait_until(lambda: stream.is_finished, "it was never spoken")
    engine._intake._deadlines._pending[engine._intake._deadlines._number_of[stream]]()
    assert engine.health()["running"] == 0
    assert len(engine._intake._deadlines) == 0


def test_a_health_check_is_spoken_beside_the_places(engine: TTSEngine) -> None:
    streams = [engine.submit(SynthesisRequest(LONG_TEXT, seed=k)) for k in range(5)]
    with pytest.raises(Overloaded):
        engine.submit(SynthesisRequest(TEXT))
    assert samples_of(engine.submit(SynthesisRequest(TEXT, seed=1, is_probe=True))).size
    for stream in streams:
        stream.cancel()
    wait_until(lambda: is_empty(engine), "a place was not given back")


def test_a_step_without_an_end_is_told(engine: TTSEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine._decoder.busy_since_s is None
    monkeypatch.setattr(engine._decoder.main, "busy_since_s", time.monotonic() - 1000.0)
    health = engine.health()
    assert (health["ready"], health["error"]) == (False, "acoustic: no end of a step for 120 s")


# cancelling


@pytest.mark.parametrize("seed", range(12))
def test_a_request_can_be_cancelled_at_any_moment(engine: TTSEngine, seed: int) -> None:
    draw = random.Random(seed)
    survivor = engine.submit(SynthesisRequest(TEXT, seed=5))
    kind = draw.choice(("streamed", "buffered", "fed"))
    if kind == "fed":
        fed = engine.open_text_stream(SynthesisRequest("", voice="zh_female", seed=seed))
        fed.feed(LONG_TEXT[: draw.randrange(1, 40)])
        victim: AudioStream = fed
    else:
        victim = engine.submit(SynthesisRequest(LONG_TEXT, stream=kind == "streamed", seed=seed))
    threading.Event().wait(draw.choice((0.0, 0.002, 0.02, 0.1, 0.4)))
    victim.cancel()
    assert samples_of(survivor).size
    wait_until(lambda: is_empty(engine), f"a {kind} request left something behind")
    assert victim.stats.finish == "abort"


def test_a_text_stream_cancelled_before_it_was_prepared_takes_text_quietly(engine: TTSEngine) -> None:
    stream = engine.open_text_stream(SynthesisRequest("", voice="en_female"))
    stream.cancel()
    stream.feed("Hello.")
    stream.finish_text()
    wait_until(lambda: is_empty(engine), "it left something behind")
    assert sum(chunk.samples.size for chunk in stream) == 0


def test_a_text_stream_that_discards_goes_on_as_if_nothing_had_been_fed(engine: TTSEngine) -> None:
    def speak(moment: str | None) -> np.ndarray:
        stream = engine.open_text_stream(SynthesisRequest("", voice="zh_female", seed=4))
        if moment is not None:
            stream.feed(LONG_TEXT[:40])
            if moment == "while it speaks":
                stream.flush()
                assert next(iter(stream)).samples.size
                stream.feed(LONG_TEXT[:40])
            stream.discard()
        stream.feed("3点")
        stream.feed("再见。")
        stream.finish_text()
        assert engine.health()["running"] == 1, "the place is kept"
        return samples_of(stream)

    unharmed = speak(None)
    for moment in ("before the voice is there", "while it speaks"):
        np.testing.assert_allclose(speak(moment), unharmed, atol=1e-3)
    wait_until(lambda: is_empty(engine), "it left something behind")


def test_a_paused_reader_does_not_keep_a_cancelled_request_alive(engine: TTSEngine) -> None:
    stream = engine.submit(SynthesisRequest(LONG_TEXT, seed=1))
    next(iter(stream))
    stream._max_pending_chunks = 0
    wait_until(lambda: all(not llm._live for llm in engine._llms.values()), "the tokens never came")
    stream.cancel()
    wait_until(lambda: is_empty(engine), "it left something behind")


# faults


def die_once(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, *, at_call: int = 1) -> None:
    """The `at_call`-th call of a method raises what no request can be blamed for; later ones work."""
    method, calls = getattr(owner, name), [0]

    def dying(*arguments: object, **named: object) -> object:
        calls[0] += 1
        if calls[0] == at_call:
            raise RuntimeError("injected")
        return method(*arguments, **named)

    monkeypatch.setattr(owner, name, dying)


def kill(engine: TTSEngine, stage: str, monkeypatch: pytest.MonkeyPatch, at_call: int = 1) -> None:
    if stage == "acoustic":
        die_once(monkeypatch, engine._decoder.main, "_launch", at_call=at_call)
    else:
        die_once(monkeypatch, next(iter(engine._llms.values()))._scheduler, "schedule", at_call=at_call)


@pytest.mark.parametrize("stage", ["acoustic", "llm"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_request_that_sent_nothing_survives_the_death_of_a_stage(
    engine: TTSEngine, stage: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    unharmed = engine.submit(SynthesisRequest(TEXT, seed=7, stream=stream))
    expected = samples_of(unharmed)
    kill(engine, stage, monkeypatch, at_call=1 if stage == "acoustic" else 5)
    victim = engine.submit(SynthesisRequest(TEXT, seed=7, stream=stream))
    audio = samples_of(victim)
    assert victim.stats.retries == 1
    assert victim.stats.speech_tokens == unharmed.stats.speech_tokens > 0
    assert audio.shape == expected.shape
    np.testing.assert_allclose(audio, expected, atol=1e-3)
    assert engine.health()["ready"]
    wait_until(lambda: is_empty(engine), "the lost attempt left something behind")


def test_a_text_stream_that_sent_nothing_begins_again_with_all_its_text(
    engine: TTSEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def speak_in_pieces() -> AudioStream:
        stream = engine.open_text_stream(SynthesisRequest("", voice="zh_female", seed=4))
        stream.feed("今天天气")
        stream.feed("真不错，")
        threading.Event().wait(0.05)
        stream.feed("我们去公园散步吧。")
        stream.finish_text()
        return stream

    unharmed = samples_of(speak_in_pieces())
    kill(engine, "llm", monkeypatch, at_call=4)
    victim = speak_in_pieces()
    audio = samples_of(victim)
    assert victim.stats.retries == 1
    assert audio.shape == unharmed.shape
    np.testing.assert_allclose(audio, unharmed, atol=1e-2)


@pytest.mark.parametrize("stage", ["acoustic", "llm"])
def test_a_request_that_was_heard_fails_and_the_next_one_is_served(
    engine: TTSEngine, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = engine.submit(SynthesisRequest(LONG_TEXT, seed=7))
    chunks = iter(victim)
    next(chunks)
    kill(engine, stage, monkeypatch)
    with pytest.raises(EngineFailure):
        list(chunks)
    assert victim.stats.retries == 0
    assert victim.stats.finish == "error"
    wait_until(lambda: bool(engine.health()["ready"]), "the stage was not started again")
    assert speak(engine, seed=1).size
    wait_until(lambda: is_empty(engine), "the failed request left something behind")


def test_a_request_is_begun_again_only_once(engine: TTSEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(*_: object) -> None:
        raise RuntimeError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(engine._decoder.main, "_launch", dying)
        victim = engine.submit(SynthesisRequest(TEXT, seed=7))
        with pytest.raises(EngineFailure):
            samples_of(victim)
    assert victim.stats.retries == 1
    wait_until(lambda: bool(engine.health()["ready"]), "the stage was not started again")
    assert speak(engine, seed=1).size


def test_a_stage_that_dies_too_often_stays_down_and_health_says_so(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load(tmp_path, max_restarts=1) as engine:

        def dying(*_: object) -> None:
            raise RuntimeError("injected")

        monkeypatch.setattr(engine._decoder.main, "_launch", dying)
        with pytest.raises(EngineFailure):
            speak(engine)
        wait_until(lambda: not engine._decoder.is_alive, "the stage was started too often")
        health = engine.health()
        assert not health["ready"]
        assert "acoustic" in health["error"]
        assert health["restarts"] == 1
        with pytest.raises(EngineFailure):
            speak(engine)
        assert engine._events.restarted == ["acoustic"]  # type: ignore[attr-defined]
        assert engine._events.retried >= 1  # type: ignore[attr-defined]


def test_a_request_whose_hops_cannot_be_computed_ends_alone(engine: TTSEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow fails for one listener's speed only; its neighbour hears what it would have heard."""
    unharmed = speak(engine, seed=7)
    decode = engine._decoder.flow.decode

    def decode_or_raise(hops):  # type: ignore[no-untyped-def]
        if any(hop.stream.steps == 3 for hop in hops):
            raise RuntimeError("injected")
        return decode(hops)

    monkeypatch.setattr(engine._decoder.flow, "decode", decode_or_raise)
    guilty = engine.submit(SynthesisRequest(TEXT, seed=7, flow_steps=3))
    audio = speak(engine, seed=7)
    with pytest.raises(EngineFailure):
        samples_of(guilty)
    assert guilty.stats.retries == 0
    assert audio.shape == unharmed.shape
    np.testing.assert_allclose(audio, unharmed, atol=1e-2)


# the end


def test_a_drained_engine_finishes_what_it_has_and_takes_no_more(tmp_path: object) -> None:
    with load(tmp_path) as engine:
        heard: list[np.ndarray] = []
        running = engine.submit(SynthesisRequest(TEXT, seed=1))
        assert not engine.drain(0.0)
        with pytest.raises(Overloaded, match="shutting down"):
            engine.submit(SynthesisRequest(TEXT))
        reader = threading.Thread(target=lambda: heard.append(samples_of(running)))
        reader.start()
        assert engine.drain(WAIT_S)
        reader.join()
        assert heard[0].size
        assert not engine.health()["ready"]


def test_closing_ends_everything_and_refuses_what_comes(tmp_path: object) -> None:
    engine = load(tmp_path, max_concurrent_requests=1, max_queue=2)
    streams = [engine.submit(SynthesisRequest(LONG_TEXT, seed=k)) for k in range(3)]
    engine.close()
    engine.close()
    for stream in streams:
        with contextlib.suppress(LightTTSError):
            samples_of(stream)
        assert stream.stats.finish == "abort"
    assert is_empty(engine)
    with pytest.raises(EngineFailure, match="closed"):
        engine.submit(SynthesisRequest(TEXT))


def test_a_request_knows_what_it_cost(engine: TTSEngine) -> None:
    stream = engine.submit(SynthesisRequest(TEXT, voice="en_female", seed=1))
    samples_of(stream)
    stats = stream.stats
    assert min(stats.llm_ms, stats.flow_ms, stats.vocoder_ms, stats.prompt_s) > 0
    assert stats.total_ms is not None
    assert stats.flow_ms + stats.vocoder_ms < stats.total_ms
    again = engine.submit(SynthesisRequest(TEXT, voice="en_female", seed=1))
    samples_of(again)
    assert again.stats.is_voice_cached
