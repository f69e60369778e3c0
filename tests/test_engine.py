"""The story of a request, end to end, with the built-in model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from light_tts.assets import builtin_model_dir
from light_tts.audio_stream import AudioStream
from light_tts.engine import TTSEngine
from light_tts.errors import (
    BadAudio,
    ConfigError,
    EmptyText,
    InvalidRequest,
    Overloaded,
    TextTooLong,
    UnknownModel,
    UnknownVoice,
)
from light_tts.settings import EngineSettings, FrontendSettings, LLMSettings, Settings, ShortTextSettings
from light_tts.types import SAMPLE_RATE_HZ, Mode, ReferenceAudio, SynthesisRequest

TEXT = "Your order is on its way."


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TTSEngine]:
    voices = tmp_path_factory.mktemp("voices")
    settings = Settings(frontend=FrontendSettings(voices_dir=voices), engine=EngineSettings(max_concurrent_requests=8))
    with TTSEngine.load(settings) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def recording() -> bytes:
    return (Path(builtin_model_dir()) / "prompts" / "en_male.wav").read_bytes()


def samples_of(stream: AudioStream) -> np.ndarray:
    with stream:
        return np.concatenate([chunk.samples for chunk in stream])


def speak(engine: TTSEngine, text: str = TEXT, **fields: object) -> np.ndarray:
    return samples_of(engine.submit(SynthesisRequest(text, **fields)))  # type: ignore[arg-type]


def test_it_speaks(engine: TTSEngine) -> None:
    audio = speak(engine, seed=1)
    assert 0.8 < audio.size / SAMPLE_RATE_HZ < 5.0
    assert 0.02 < float(np.sqrt(np.mean(audio**2))) < 0.5
    assert float(np.abs(audio).max()) <= 1.0


@pytest.mark.parametrize("stream", [True, False])
def test_the_same_seed_gives_the_same_audio(engine: TTSEngine, stream: bool) -> None:
    first, second = (speak(engine, seed=7, stream=stream) for _ in range(2))
    assert first.size == second.size
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_another_seed_gives_other_audio(engine: TTSEngine) -> None:
    first, second = speak(engine, seed=1), speak(engine, seed=2)
    assert first.size != second.size or not np.allclose(first, second, atol=1e-2)


def test_a_request_sounds_the_same_in_a_crowd(engine: TTSEngine) -> None:
    alone = speak(engine, seed=11)
    others = [
        engine.submit(SynthesisRequest(text, seed=k, stream=k % 2 == 0))
        for k, text in enumerate(("Good morning.", "您好，欢迎使用。", "The train leaves at nine.", "再见。"))
    ]
    mine = engine.submit(SynthesisRequest(TEXT, seed=11))
    others[1].cancel()
    crowd = samples_of(mine)
    for other in others:
        samples_of(other) if not other.is_finished else other.cancel()
    assert crowd.size == alone.size
    np.testing.assert_allclose(crowd, alone, atol=1e-2)


@pytest.mark.parametrize(("language", "text"), [("en", "Hello."), ("zh", "您好。")])
def test_without_a_voice_the_texts_language_chooses(engine: TTSEngine, language: str, text: str) -> None:
    chosen = engine.voices.default_for(text)
    assert chosen.startswith(language)


@pytest.mark.parametrize("mode", [Mode.ZERO_SHOT, Mode.CROSS_LINGUAL, Mode.PRESET])
def test_every_mode_speaks(engine: TTSEngine, mode: Mode) -> None:
    audio = speak(engine, voice="en_female", mode=mode, seed=3)
    assert audio.size > SAMPLE_RATE_HZ // 2


def test_an_instruction_is_followed_by_speech(engine: TTSEngine) -> None:
    audio = speak(engine, voice="en_female", instruction="Speak calmly.", seed=3)
    assert audio.size > SAMPLE_RATE_HZ // 4


def test_a_recording_is_cloned_with_and_without_its_words(engine: TTSEngine, recording: bytes) -> None:
    words = "Thank you for calling, your request has been received."
    with_words = speak(engine, voice=ReferenceAudio(recording, words), seed=5)
    without = speak(engine, voice=ReferenceAudio(recording), seed=5)
    assert min(with_words.size, without.size) > SAMPLE_RATE_HZ // 2


def test_voice_conversion_keeps_the_length(engine: TTSEngine, recording: bytes) -> None:
    audio = samples_of(engine.convert(recording, SynthesisRequest("", voice="en_female", seed=1)))
    assert abs(audio.size / SAMPLE_RATE_HZ - (len(recording) - 44) / 2 / SAMPLE_RATE_HZ) < 0.1


@pytest.mark.parametrize("stream", [True, False])
def test_speed_changes_the_length(engine: TTSEngine, stream: bool) -> None:
    normal, fast, slow = (speak(engine, seed=9, speed=speed, stream=stream) for speed in (1.0, 1.5, 0.75))
    assert fast.size == pytest.approx(normal.size / 1.5, rel=0.02)
    assert slow.size == pytest.approx(normal.size / 0.75, rel=0.02)


def test_long_text_comes_in_segments_and_in_order(engine: TTSEngine) -> None:
    text = "今天天气真不错，我们一起去公园散步吧。" * 6
    stream = engine.submit(SynthesisRequest(text, seed=2))
    audio = samples_of(stream)
    assert stream.stats.segments > 1
    assert stream.stats.audio_s == pytest.approx(audio.size / SAMPLE_RATE_HZ)
    assert stream.stats.finish == "stop"


def test_text_fed_piece_by_piece_is_spoken(engine: TTSEngine) -> None:
    with engine.open_text_stream(SynthesisRequest("", voice="zh_female", seed=4)) as stream:
        for piece in ("今天天气", "真不错，", "我们去公园", "散步吧。"):
            stream.feed(piece)
        stream.finish_text()
        audio = np.concatenate([chunk.samples for chunk in stream])
    assert audio.size > SAMPLE_RATE_HZ


def test_flush_speaks_before_the_text_ends(engine: TTSEngine) -> None:
    with engine.open_text_stream(SynthesisRequest("", voice="zh_female", seed=4)) as stream:
        stream.feed("今天天气真不错。")
        stream.flush()
        first = next(chunk for chunk in stream if chunk.samples.size)
        stream.feed("再见。")
        stream.finish_text()
        rest = [chunk.samples for chunk in stream]
    assert first.samples.size
    assert sum(map(len, rest))


def test_a_text_stream_without_text_ends_with_empty_audio(engine: TTSEngine) -> None:
    with engine.open_text_stream(SynthesisRequest("", voice="en_female")) as stream:
        stream.finish_text()
        assert sum(chunk.samples.size for chunk in stream) == 0


@pytest.mark.parametrize("text", ["", "   \n\t ", "……！？", "."])
def test_nothing_to_say_is_a_clear_error(engine: TTSEngine, text: str) -> None:
    with pytest.raises(EmptyText):
        speak(engine, text)


def test_an_unknown_voice_lists_the_known_ones(engine: TTSEngine) -> None:
    with pytest.raises(UnknownVoice, match="en_female"):
        speak(engine, voice="nobody")


def test_an_unknown_model_lists_the_known_ones(engine: TTSEngine) -> None:
    with pytest.raises(UnknownModel, match=engine.model_names[0]):
        engine.submit(SynthesisRequest(TEXT, model="nothing"))


@pytest.mark.parametrize("fields", [{"speed": 9.0}, {"flow_steps": 0}, {"seed": -1}])
def test_values_out_of_range_are_refused_at_once(engine: TTSEngine, fields: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(fields))):
        engine.submit(SynthesisRequest(TEXT, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [b"", b"not audio at all", b"RIFF\x00\x00\x00\x00WAVE"])
def test_bad_reference_audio_is_refused(engine: TTSEngine, data: bytes) -> None:
    with pytest.raises(BadAudio):
        speak(engine, voice=ReferenceAudio(data, "words"))


def test_over_the_limit_is_refused_and_the_place_comes_back(engine: TTSEngine) -> None:
    streams = [engine.submit(SynthesisRequest(TEXT, seed=k)) for k in range(8)]
    with pytest.raises(Overloaded):
        engine.submit(SynthesisRequest(TEXT))
    for stream in streams:
        stream.cancel()
    assert speak(engine, "Good morning.", seed=1).size


def test_a_cancelled_request_frees_everything(engine: TTSEngine) -> None:
    stream = engine.submit(SynthesisRequest("今天天气真不错，我们一起去公园散步吧。" * 8, seed=1))
    next(iter(stream))
    stream.cancel()
    deadline_s = time.monotonic() + 30
    while engine.health()["running"] or engine._decoder.num_runs or engine.health()["llm"]["running"]:
        assert time.monotonic() < deadline_s, "the request's states were not freed"
        threading.Event().wait(0.01)


def test_the_text_of_a_stream_is_bounded(engine: TTSEngine) -> None:
    limit = engine.settings.frontend.max_text_chars
    with engine.open_text_stream(SynthesisRequest("", voice="en_female", seed=1)) as stream:
        stream.feed("Good morning.")
        with pytest.raises(TextTooLong, match=str(limit)):
            stream.feed("a" * limit)
        stream.finish_text()
        assert sum(chunk.samples.size for chunk in stream)


def test_a_phrase_is_spoken_once_and_sounds_the_same_from_then_on(engine: TTSEngine) -> None:
    def ask(text: str, **fields: object) -> tuple[np.ndarray, bool | None]:
        request = SynthesisRequest(text, phrase_cache=True, **fields)  # type: ignore[arg-type]
        stream = engine.submit(request)
        return samples_of(stream), stream.stats.is_phrase_cached

    before = engine.health()["phrase_cache"]
    first, was_cached = ask("One moment, please.", voice="en_female")
    assert was_cached is False
    steps = engine.health()["llm"]
    again, was_cached = ask("  One moment, please. ", voice="en_female", stream=False)
    assert was_cached is True
    assert np.abs(again - first).max() < 1.0 / 32767
    assert engine.health()["llm"] == steps  # no model was asked
    other, was_cached = ask("One moment, please.", voice="en_male")
    assert was_cached is False
    assert not np.array_equal(other, first)
    _, was_cached = ask("One moment, please.", voice="en_female", speed=1.5)
    assert was_cached is False
    _, was_cached = ask("One moment, please.", voice="en_female", seed=3)
    assert was_cached is None
    after = engine.health()["phrase_cache"]
    assert (after["hits"] - before["hits"], after["misses"] - before["misses"]) == (1, 3)


def test_phrases_are_prepared_after_the_start_while_all_places_are_taken(tmp_path: Path) -> None:
    templates = tmp_path / "phrases.txt"
    templates.write_text("Hello.\n", encoding="utf-8")
    settings = Settings(
        frontend=FrontendSettings(voices_dir=tmp_path),
        engine=EngineSettings(max_concurrent_requests=1),
        short_text=ShortTextSettings(short_templates=templates),
    )
    with TTSEngine.load(settings) as engine, engine.submit(SynthesisRequest(TEXT * 20, stream=False)):
        engine.preload_phrases()
        engine._phrases._preloading.join()  # type: ignore[union-attr]
        assert engine.health()["running"] == 1
        stream = engine.submit(SynthesisRequest("Hello.", phrase_cache=True))
        assert samples_of(stream).size
        assert stream.stats.is_phrase_cached
        with pytest.raises(Overloaded):
            engine.submit(SynthesisRequest(TEXT))


def test_closing_while_phrases_are_prepared_ends_them(tmp_path: Path) -> None:
    with TTSEngine.load(Settings(frontend=FrontendSettings(voices_dir=tmp_path))) as engine:
        engine.preload_phrases()
    assert engine._phrases._preloading is not None
    assert not engine._phrases._preloading.is_alive()


def test_a_file_of_phrases_that_is_not_there_is_refused_before_anything_loads(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="short_templates"):
        TTSEngine.load(Settings(short_text=ShortTextSettings(short_templates=tmp_path / "no.txt")))


def test_a_recording_is_kept_while_a_request_speaks_with_it(recording: bytes, tmp_path: Path) -> None:
    settings = Settings(
        frontend=FrontendSettings(voices_dir=tmp_path, voice_cache_capacity=1),
        engine=EngineSettings(max_pending_chunks=2),  # so that the first request waits for its reader
    )
    other = (Path(builtin_model_dir()) / "prompts" / "en_female.wav").read_bytes()
    with TTSEngine.load(settings) as engine:
        with engine.submit(SynthesisRequest(TEXT * 4, voice=ReferenceAudio(recording))) as mine:
            next(iter(mine))
            speak(engine, "Yes.", voice=ReferenceAudio(other))
            with engine.submit(SynthesisRequest("Yes.", voice=ReferenceAudio(recording))) as again:
                next(iter(again))
        assert engine.health()["voice_cache"] == {"entries": 1, "hits": 1, "misses": 2}


def test_a_greedy_engine_speaks_the_same_audio_every_time(tmp_path: Path) -> None:
    settings = Settings(
        llm=LLMSettings(greedy=True), frontend=FrontendSettings(voices_dir=tmp_path), short_text=ShortTextSettings()
    )
    with TTSEngine.load(settings) as engine:
        first, second = speak(engine, "Yes."), speak(engine, "Yes.")
    assert first.size == second.size
    np.testing.assert_allclose(first, second, atol=1e-3)
