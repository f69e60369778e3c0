"""Short texts: answered from the cache, spoken once for all who ask at the same time, prepared after the start."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from light_tts.audio_stream import AudioStream
from light_tts.errors import ConfigError, EmptyText, EngineFailure, Overloaded, UnknownVoice
from light_tts.phrase_book import EXAMPLE_TEMPLATES, PhraseBook, read_templates
from light_tts.settings import ShortTextSettings
from light_tts.shared_speech import SharedSpeech
from light_tts.types import AudioChunk, FinishReason, ReferenceAudio, RegisteredVoice, SynthesisRequest

SECOND = np.full(24_000, 0.5, np.float32)


class Desk:
    """The engine's side: remembers what it was asked to speak; speaks it at once, or when told to."""

    def __init__(self, **settings):
        self.begun = []
        self.held = []
        self.hold = False
        self.error = None
        self.prepare_error = None
        self.changed = threading.Condition()
        self.book = PhraseBook(
            ShortTextSettings(**settings), prepare=self.prepare, open_stream=self.open_stream, begin=self.begin
        )

    def prepare(self, request):
        if self.prepare_error is not None:
            raise self.prepare_error
        return None, f"{request.text.strip()} {request.voice}".encode()

    def open_stream(self, request):
        assert request.timeout_s is None
        return SharedSpeech(request.request_id, timeout_s=5, max_pending_chunks=2)

    def begin(self, stream, request, prepared, takes_place):
        if self.error is not None:
            raise self.error
        with self.changed:
            self.begun.append((request.text, request.voice, takes_place))
            self.held.append(stream)
            self.changed.notify_all()
        if not self.hold:
            self.speak()

    def speak(self):
        for stream in self.held:
            stream.put(AudioChunk(SECOND))
            stream.end(FinishReason.STOP)
        self.held.clear()

    def ask(self, text="您好", **fields):
        request = SynthesisRequest(text, phrase_cache=True, **fields)
        stream = AudioStream("r", timeout_s=5, max_pending_chunks=2)
        assert self.book.takes(request)
        self.book.speak(request, stream)
        return stream

    def wait_for(self, num_begun):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.begun) >= num_begun, 5)

    def settle(self):
        """Wait until everything asked so far has been looked up: the book has one thread."""
        self.book._pool.submit(lambda: None).result()


@pytest.fixture
def desk():
    made = []

    def make(**settings):
        made.append(Desk(**settings))
        return made[-1]

    yield make
    for each in made:
        each.book.close()


def samples(stream):
    return sum(chunk.samples.size for chunk in stream)


def test_the_second_answer_comes_from_the_cache(desk):
    each = desk()
    first, second = each.ask(), None
    assert samples(first) == 24_000
    second = each.ask(" 您好 ", stream=False)
    assert samples(second) == 24_000
    assert (first.stats.is_phrase_cached, second.stats.is_phrase_cached) == (False, True)
    assert len(each.begun) == 1
    stats = each.book.stats()
    assert (stats.entries, stats.bytes, stats.hits, stats.misses) == (1, 48_000, 1, 1)
    assert second.stats.finish == "stop"
    assert second.stats.speech_tokens == 0


def test_a_hit_passes_a_full_house(desk):
    each = desk()
    samples(each.ask())
    each.error = Overloaded("full")
    assert samples(each.ask()) == 24_000
    with pytest.raises(Overloaded):
        samples(each.ask("再见"))


def test_identical_misses_are_spoken_once(desk):
    each = desk()
    each.hold = True
    streams = [each.ask() for _ in range(5)]
    other = each.ask("再见")
    each.settle()
    assert [text for text, *_ in each.begun] == ["您好", "再见"]
    streams[0].cancel()
    each.speak()
    assert [samples(stream) for stream in [*streams[1:], other]] == [24_000] * 5
    assert each.book.stats().misses == 6


def test_who_streams_does_not_wait_for_a_whole_answer(desk):
    each = desk()
    each.hold = True
    each.ask(stream=False)
    each.ask(stream=True)
    each.settle()
    assert len(each.begun) == 2


def test_when_all_have_left_the_next_one_is_spoken_to_anew(desk):
    each = desk()
    each.hold = True
    left = each.ask()
    each.settle()
    left.cancel()
    stays = each.ask()
    each.settle()
    assert len(each.begun) == 2
    each.held = each.held[1:]
    each.speak()
    assert samples(stays) == 24_000


def test_who_left_before_being_looked_up_costs_nothing(desk):
    each = desk()
    gate = threading.Event()
    each.book._pool.submit(gate.wait)
    each.ask().cancel()
    gate.set()
    each.settle()
    assert each.begun == []


def test_a_failed_synthesis_is_not_kept_and_is_tried_again(desk):
    each = desk()
    each.hold = True
    failed = each.ask()
    each.settle()
    each.held.pop().fail(EngineFailure("broken"))
    with pytest.raises(EngineFailure):
        samples(failed)
    each.hold = False
    assert samples(each.ask()) == 24_000


def test_samples_that_are_no_numbers_are_answered_as_ever_and_not_kept(desk):
    each = desk()
    each.hold = True
    stream = each.ask()
    each.settle()
    each.held[0].put(AudioChunk(np.full(10, np.nan, np.float32)))
    each.held[0].end(FinishReason.STOP)
    assert samples(stream) == 10
    assert each.book.stats().entries == 0


def test_errors_of_the_text_and_unforeseen_ones_end_the_request_alone(desk):
    each = desk()
    each.prepare_error = EmptyText("nothing to say", "text")
    with pytest.raises(EmptyText):
        samples(each.ask())
    each.prepare_error = ZeroDivisionError()
    with pytest.raises(EngineFailure):
        samples(each.ask())
    each.prepare_error = None
    assert samples(each.ask()) == 24_000


def test_too_many_lookups_are_refused_at_once(desk, monkeypatch):
    monkeypatch.setattr("light_tts.phrase_book.MAX_LOOKUPS", 2)
    each = desk()
    gate = threading.Event()
    each.book._pool.submit(gate.wait)
    each.ask()
    each.ask()
    with pytest.raises(Overloaded):
        each.ask()
    gate.set()
    each.settle()
    assert samples(each.ask()) == 24_000


def test_which_requests_may_be_answered_from_the_cache(desk):
    book = desk(short_template_max_chars=5).book
    plain = SynthesisRequest("12345", phrase_cache=True)
    assert book.takes(plain)
    for voice in ("registered", RegisteredVoice("registered", "with other words")):
        assert book.takes(replace(plain, voice=voice))
    for change in (
        {"text": "123456"},
        {"seed": 0},
        {"phrase_cache": None},
        {"phrase_cache": False},
        {"voice": ReferenceAudio(b"")},
        {"is_probe": True},
    ):
        assert not book.takes(replace(plain, **change)), change
    everywhere = desk(short_cache_all=True).book
    assert everywhere.takes(replace(plain, phrase_cache=None))
    assert not everywhere.takes(replace(plain, phrase_cache=False))
    assert not desk(short_cache_mb=0).book.takes(plain)


def test_phrases_are_prepared_in_the_given_voice_without_a_place_and_without_being_counted(desk):
    each = desk()
    each.book.preload(["您好", "谢谢", "x" * 51], "anna")
    each.book._preloading.join()
    assert each.begun == [("您好", "anna", False), ("谢谢", "anna", False)]
    assert (each.book.stats().hits, each.book.stats().misses) == (0, 0)
    assert each.ask(voice="anna").stats is not None
    each.settle()
    assert (each.book.stats().hits, each.book.stats().misses) == (1, 0)


def test_preparing_goes_on_after_a_phrase_that_cannot_be_spoken(desk, caplog):
    each = desk()
    each.error = EngineFailure("broken")
    each.book.preload(["您好", "谢谢"], None)
    each.book._preloading.join()
    assert "'谢谢' was not spoken" in caplog.text
    each.prepare_error = UnknownVoice("This model has no voices of its own.")
    each.book.preload(["您好", "谢谢"], None)
    each.book._preloading.join()
    assert caplog.text.count("no short texts are prepared") == 0  # it is no warning


def test_closing_ends_the_preparations(desk):
    each = desk()
    each.hold = True
    each.book.preload(["您好", "谢谢"], None)
    each.wait_for(1)
    each.held[0].cancel()  # as the engine does with everything inside
    each.error = Overloaded("shutting down")
    each.book.close()
    assert len(each.begun) == 1
    with pytest.raises(EngineFailure, match="closed"):
        each.ask()


def test_templates_are_read_from_a_file(tmp_path):
    path = tmp_path / "phrases.txt"
    path.write_text("\ufeff# greetings\n您好  # hello\n\n Good morning. \n", encoding="utf-8")
    assert read_templates(path) == ("您好", "Good morning.")
    path.write_text("")
    assert read_templates(path) == ()
    assert read_templates(None) == EXAMPLE_TEMPLATES
    path.write_bytes(b"\xff\xfe")
    for wrong in (path, tmp_path / "missing.txt"):
        with pytest.raises(ConfigError, match="short_templates"):
            read_templates(wrong)
