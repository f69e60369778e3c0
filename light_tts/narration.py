"""The segments of one request on their way through the models: run ahead, leave in order, die together.

Segment k+1 is decoded while k is still being spoken; its audio waits here until k has ended. Used from the engine's
pool, the language model's thread and the decoder's thread; a lock guards the order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from light_tts.acoustic.decoder import AcousticDecoder
from light_tts.acoustic.run import AcousticJob, AcousticRun
from light_tts.audio_stream import AudioStream
from light_tts.errors import LightTTSError
from light_tts.types import AudioChunk, FinishReason, TokenSink

MAX_SEGMENTS_AHEAD = 2  # segments decoded beyond the one being spoken


class SpeechSource(Protocol):
    """Something that will feed speech tokens into a sink: a language-model run, or codes at hand."""

    def abort(self) -> None:
        """Stop feeding."""


StartSpeech = Callable[[TokenSink, int], SpeechSource]  # (sink, segment index) -> the running source


def mix_seed(seed: int, index: int) -> int:
    """An independent seed for segment `index` of a request (splitmix64 finaliser)."""
    mixed = (seed + (index + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ (mixed >> 31)) & 0x7FFFFFFFFFFFFFFF


class Narration:
    """Speaks segments one after another into an AudioStream."""

    def __init__(self, stream: AudioStream, decoder: AcousticDecoder, on_done: Callable[[], None]) -> None:
        self.stream = stream
        self._decoder = decoder
        self._job: AcousticJob | None = None  # known once the request is prepared
        self._on_done = on_done
        self._lock = threading.RLock()
        self._waiting: list[tuple[int, StartSpeech]] = []  # segments not started yet
        self._open: list[_Segment] = []  # started, not fully spoken; the first one is heard
        self._num_added = 0
        self._is_complete = False  # no further segment will be added
        self._is_over = False
        self._reason = FinishReason.STOP

    @property
    def job(self) -> AcousticJob:
        """Voice, seed and flow settings of all segments."""
        assert self._job is not None, "bind comes before segments"
        return self._job

    def bind(self, job: AcousticJob) -> None:
        """Say how the segments are to be spoken; before the first `add`."""
        self._job = job

    def add(self, start: StartSpeech) -> None:
        """Append a segment."""
        with self._lock:
            if self._is_over:
                return
            self._waiting.append((self._num_added, start))
            self._num_added += 1
            self.stream.stats.segments = self._num_added
        self.advance()

    def complete(self) -> None:
        """No segment follows; the stream ends when the last one has been spoken."""
        with self._lock:
            self._is_complete = True
        self._finish_if_spoken()

    def advance(self) -> None:
        """Start the next segment if the one before has all its tokens and not too much is waiting to be heard."""
        with self._lock:
            if self._is_over or not self._waiting or len(self._open) > MAX_SEGMENTS_AHEAD:
                return
            if self._open and not self._open[-1].has_all_tokens:
                return
            index, start = self._waiting.pop(0)
            segment = _Segment(self, index)
            self._open.append(segment)
            try:
                segment.start(self._decoder, replace(self.job, seed=mix_seed(self.job.seed, index)), start)
            except LightTTSError as error:
                self.fail(error)

    def fail(self, error: LightTTSError) -> None:
        """End the request with an error."""
        self.stream.fail(error)
        self.cancel()

    def cancel(self) -> None:
        """Stop everything that runs."""
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
            segments, self._open, self._waiting = self._open, [], []
        for segment in segments:
            segment.abort()
        self._on_done()

    def wake(self) -> None:
        """The reader took a chunk."""
        self._decoder.wake()

    # called by segments, on the decoder's thread

    def _heard(self, segment: _Segment) -> bool:
        return bool(self._open) and self._open[0] is segment

    def _deliver(self, segment: _Segment, samples: np.ndarray) -> None:
        with self._lock:
            if self._heard(segment):
                self.stream.put(AudioChunk(samples))
            else:
                segment.held.append(samples)

    def _spoken(self, segment: _Segment, reason: FinishReason) -> None:
        with self._lock:
            if reason is FinishReason.LENGTH:
                self._reason = reason
            segment.is_spoken = True
            while self._open and self._open[0].is_spoken:
                self._open.pop(0)
                if self._open:
                    for samples in self._open[0].take_held():
                        self.stream.put(AudioChunk(samples))
        self.advance()
        self._finish_if_spoken()

    def _finish_if_spoken(self) -> None:
        with self._lock:
            if self._is_over or not self._is_complete or self._open or self._waiting:
                return
            self._is_over = True
            self.stream.stats.finish = str(self._reason)
        self.stream.put(AudioChunk(np.zeros(0, np.float32), is_last=True))
        self._on_done()


class _Segment:
    """One segment: token sink towards the language model, chunk sink towards the decoder."""

    def __init__(self, narration: Narration, index: int) -> None:
        self.held: list[np.ndarray] = []
        self.has_all_tokens = False
        self.is_spoken = False
        self._narration = narration
        self._index = index
        self._run: AcousticRun | None = None
        self._source: SpeechSource | None = None

    def start(self, decoder: AcousticDecoder, job: AcousticJob, start: StartSpeech) -> None:
        self._run = decoder.open(job, _AudioSide(self, self._narration))
        self._source = start(_TokenSide(self, self._narration, self._run), self._index)

    def abort(self) -> None:
        if self._source is not None:
            self._source.abort()
        if self._run is not None:
            self._run.cancel()

    def take_held(self) -> list[np.ndarray]:
        held, self.held = self.held, []
        return held


class _TokenSide:
    """TokenSink: passes tokens on to the acoustic run, and lets the next segment start when they end."""

    def __init__(self, segment: _Segment, narration: Narration, run: AcousticRun) -> None:
        self._segment = segment
        self._narration = narration
        self._run = run

    def put(self, tokens: Sequence[int]) -> None:
        self._narration.stream.stats.speech_tokens += len(tokens)
        self._run.put(tokens)

    def end(self, reason: FinishReason) -> None:
        self._segment.has_all_tokens = True
        self._run.end(reason)
        self._narration.advance()

    def fail(self, error: Exception) -> None:
        self._run.fail(error)


class _AudioSide:
    """ChunkSink: hands audio to the narration, which knows whose turn it is."""

    def __init__(self, segment: _Segment, narration: Narration) -> None:
        self._segment = segment
        self._narration = narration

    @property
    def has_room(self) -> bool:
        return self._narration.stream.has_room

    def put(self, samples: np.ndarray) -> None:
        self._narration._deliver(self._segment, samples)

    def end(self, reason: FinishReason) -> None:
        self._narration._spoken(self._segment, reason)

    def fail(self, error: LightTTSError) -> None:
        self._narration.fail(error)
