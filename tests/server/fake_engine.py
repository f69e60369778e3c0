"""An engine that speaks a sine: real AudioStreams, no model. It can fail, stall and refuse; it keeps its requests."""

import threading
import time

import numpy as np

from light_tts.audio_output import encode_complete
from light_tts.audio_stream import AudioStream
from light_tts.caller_limits import CallerLimits
from light_tts.errors import EmptyText, Overloaded, UnknownVoice
from light_tts.types import SAMPLE_RATE_HZ, AudioChunk, Voice

CHUNK_S = 0.2


def voice(name, language="en", num_tokens=50, prompt_text="hello"):
    return Voice(
        id=name,
        speaker=np.zeros(192, np.float32),
        tokens=np.zeros(num_tokens, np.int64),
        mel=np.zeros((2 * num_tokens, 80), np.float32),
        prompt_text=prompt_text,
        language=language,
    )


class FakeVoices:
    directory = None

    def __init__(self, *voices):
        self._voices = {each.id: each for each in voices}
        self.consents = {}

    def names(self):
        return list(self._voices)

    def get(self, name):
        return self._voices[name]

    def add(self, name, data, prompt_text=None, language=None, consent=None):
        self._voices[name] = voice(name, language, prompt_text=prompt_text)
        self.consents[name] = consent
        return self._voices[name]

    def added_at_s(self, name):
        return 1_700_000_000.5 if name in self.consents else None

    def remove(self, name):
        del self._voices[name]

    def default_for(self, text, language="auto"):
        if not self._voices:
            raise UnknownVoice("This model has no voices of its own.", "voice")
        wanted = "zh" if any("一" <= letter <= "鿿" for letter in text) else "en"
        return next(name for name, each in self._voices.items() if each.language == wanted)


def recording(seconds=4.0):
    """A whole WAV file."""
    return encode_complete(sine(seconds), "wav")


def sine(seconds, amplitude=0.5, start=0):
    positions = np.arange(int(seconds * SAMPLE_RATE_HZ)) + start
    return (amplitude * np.sin(2 * np.pi * 440 * positions / SAMPLE_RATE_HZ)).astype(np.float32)


class FakeTextStream(AudioStream):
    """Speaks one chunk per word as soon as it is fed."""

    def __init__(self, engine, request):
        super().__init__(request.request_id, timeout_s=30, max_pending_chunks=64)
        self.engine = engine
        self.fed = []
        self.calls = []
        self.held = []

    def feed(self, text):
        self.fed.append(text)
        self.calls.append(("feed", text))
        self.stats.text_tokens += len(text)
        if self.engine.hold_text:
            self.held.append(text)
        else:
            self._say(text)

    def _say(self, text):
        for _ in text.split():
            self.put(AudioChunk(sine(CHUNK_S)))
            self.stats.speech_tokens += 5

    def feed_ids(self, ids):
        self.feed("".join(map(chr, ids)))

    def flush(self):
        self.calls.append(("flush",))
        held, self.held = self.held, []
        for text in held:
            self._say(text)

    def discard(self):
        self.calls.append(("discard",))
        self.held.clear()
        self.drop_unread()

    def finish_text(self):
        self.flush()
        self.calls.append(("finish",))
        if self.engine.streams_never_end:
            return
        self.stats.finish = "stop"
        self.put(AudioChunk(np.zeros(0, np.float32), is_last=True))


class FakeEngine:
    """chunks: chunks of 0.2 s per request. delay_s: before each. error: raised after `error_after` chunks.

    stall_after: says nothing more after that many chunks.
    """

    model_name = "test-model"

    def __init__(self, chunks=5, delay_s=0.0, amplitude=0.5):
        self.voices = FakeVoices(voice("en_female"), voice("en_male"), voice("zh_female", "zh"))
        self.model_names = ["cosyvoice"]
        self.chunks, self.delay_s, self.amplitude = chunks, delay_s, amplitude
        self.error = None
        self.error_after = 0
        self.stall_after = None
        self.chunk_s = CHUNK_S
        self.overloaded = False
        self.callers = CallerLimits(0, 0)
        self.hold_text = False
        self.phrase_cached = None
        self.streams_never_end = False
        self.ready = True
        self.failure = None
        self.running = set()
        self.requests = []
        self.streams = []
        self.cancelled = threading.Event()

    @property
    def is_ready(self):
        return self.ready

    def health(self):
        return {
            "ready": self.ready,
            "error": self.failure,
            "running": len(self.running),
            "queued": 0,
            "model": self.model_name,
            "device": "cpu",
            "dtypes": {},
            "uptime_s": 1.0,
        }

    def gpu_memory(self):
        return None

    def refusal(self):
        return Overloaded("The server is busy.", retry_after_s=2.5) if self.overloaded else None

    def watch_places(self, on_change):
        self.places_changed = on_change

    def submit(self, request):
        stream = AudioStream(request.request_id, timeout_s=30, max_pending_chunks=64)
        self._admit(stream, request)
        threading.Thread(target=self._speak, args=(stream, request), daemon=True).start()
        return stream

    def open_text_stream(self, request):
        stream = FakeTextStream(self, request)
        self._admit(stream, request)
        if self.error is not None:
            stream.fail(self.error)
        return stream

    def _admit(self, stream, request):
        refusal = self.refusal()
        if refusal is not None:
            raise refusal
        if request.caller is not None:
            self.callers.enter(request.caller, stream)
        self.requests.append(request)
        self.streams.append(stream)
        self.running.add(stream)

        def cancelled():
            self.running.discard(stream)
            self.cancelled.set()

        stream.on_cancel = cancelled

    def _speak(self, stream, request):
        stats = stream.stats
        stats.text_tokens, stats.segments = len(request.text), 1
        stats.is_phrase_cached = self.phrase_cached
        if not any(letter.isalnum() for letter in request.text):
            stream.fail(EmptyText("There is nothing to speak in the text.", "text"))
            return
        for index in range(self.chunks):
            if self.error is not None and index == self.error_after:
                time.sleep(self.delay_s)
                self.running.discard(stream)
                stream.fail(self.error)
                return
            if self.stall_after == index or stream.is_finished:
                return
            time.sleep(self.delay_s)
            stats.speech_tokens += 5
            start = int(index * self.chunk_s * SAMPLE_RATE_HZ)
            stream.put(AudioChunk(sine(self.chunk_s, self.amplitude, start)))
        if not stream.is_finished:
            stats.finish = "stop"
        self.running.discard(stream)
        stream.put(AudioChunk(np.zeros(0, np.float32), is_last=True))
