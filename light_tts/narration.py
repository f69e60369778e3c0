"""The segments of one request on their way through the models: run ahead, leave in order, die together.

Segment k+1 is decoded while k is still being spoken; its audio waits here until k has ended. Used from the engine's
pool, the language model's thread and the decoder's threads; a lock guards the order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from light_tts.acoustic.decoder import AcousticDecoder
from light_tts.acoustic.run import AcousticJob, AcousticRun, PlaybackClock
from light_tts.audio_stream import AudioStream
from light_tts.errors import EngineFailure, LightTTSError, StageLost
from light_tts.speech_source import SpeechSource, StartSpeech
from light_tts.splitmix import GAMMA, mix
from light_tts.types import TOKEN_RATE_HZ, AudioChunk, FinishReason, TokenSink

MAX_SEGMENTS_AHEAD = 2  # segments decoded beyond the one being spoken
MAX_RETRIES = 1


def mix_seed(seed: int, index: int) -> int:
    """An independent seed for segment `index` of a request."""
    return mix(seed + (index + 1) * GAMMA) & 0x7FFFFFFFFFFFFFFF


class Narration:
    """Speaks segments one after another into an AudioStream.

    on_done:       everything has ended, well or badly; called once, before those of `when_over`.
    when_revived:  runs a callback when dead stages have been started again. A request that has sent nothing is begun
                   again then, once; None: it fails.
    gap_samples:   silence between the audio of two segments.
    """

    def __init__(
        self,
        stream: AudioStream,
        decoder: AcousticDecoder,
        on_done: Callable[[], None],
        when_revived: Callable[[Callable[[], None]], None] | None = None,
        *,
        gap_samples: int = 0,
    ) -> None:
        self.stream = stream
        self._decoder = decoder
        self._when_over = [on_done]
        self._gap_samples = gap_samples
        self._has_spoken = False
        self._when_revived = when_revived
        self._job: AcousticJob | None = None
        self._lock = threading.RLock()
        self._starts: list[StartSpeech] = []  # of all segments, for the case that they must begin again
        self._num_started = 0
        self._open: list[_Segment] = []  # started, not fully spoken; the first one is heard
        self._is_suspended = False  # between the loss of a stage and its return
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
        self.stream.stats.prompt_s = int(job.prompt.tokens.shape[0]) / TOKEN_RATE_HZ

    def add(self, start: StartSpeech) -> None:
        """Append a segment."""
        with self._lock:
            if self._is_over:
                return
            self._starts.append(start)
            self.stream.stats.segments = len(self._starts)
        self.advance()

    def complete(self) -> None:
        """No segment follows; the stream ends when the last one has been spoken."""
        with self._lock:
            self._is_complete = True
        self._finish_if_spoken()

    def advance(self) -> None:
        """Start the next segment if the one before has all its tokens and not too much is waiting to be heard."""
        with self._lock:
            if self._is_over or self._is_suspended or self._num_started == len(self._starts):
                return
            if len(self._open) > MAX_SEGMENTS_AHEAD or (self._open and not self._open[-1].has_all_tokens):
                return
            index = self._num_started
            self._num_started += 1
            segment = _Segment(self, index)
            self._open.append(segment)
            try:
                segment.start(self._decoder, replace(self.job, seed=mix_seed(self.job.seed, index)))
            except LightTTSError as error:
                self._failed(segment, error)

    def drop(self) -> None:
        """Stop what runs and forget the segments; others may be added."""
        with self._lock:
            if self._is_over:
                return
            segments, self._open, self._starts = self._open, [], []
            self._num_started = 0
            self._job = replace(self.job, clock=PlaybackClock())
        for segment in segments:
            segment.abort()

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
            segments, self._open = self._open, []
            self._starts = []
            self._num_started = 0
        for segment in segments:
            segment.abort()
        for callback in self._when_over:
            callback()

    def when_over(self, callback: Callable[[], None]) -> None:
        """Call back once everything has ended; at once if it has."""
        with self._lock:
            if not self._is_over:
                self._when_over.append(callback)
                return
        callback()

    def wake(self) -> None:
        """The reader took a chunk: there is room again, if somebody waits for that."""
        if any(segment.is_paused for segment in tuple(self._open)):
            self._decoder.wake()

    # called by segments, on the threads of the stages

    def _heard(self, segment: _Segment) -> bool:
        return bool(self._open) and self._open[0] is segment

    def _deliver(self, segment: _Segment, samples: np.ndarray) -> None:
        with self._lock:
            if self._heard(segment):
                self._put(segment, samples)
            elif segment in self._open:
                segment.held.append(samples)

    def _put(self, segment: _Segment, samples: np.ndarray) -> None:
        """Audio of the segment that is heard, with the gap in front of it where another one was heard before."""
        if self._gap_samples and samples.size and self._has_spoken and not segment.has_spoken:
            self.stream.put(AudioChunk(np.zeros(self._gap_samples, np.float32)))
        if samples.size:
            segment.has_spoken = self._has_spoken = True
        self.stream.put(AudioChunk(samples))

    def _spoken(self, segment: _Segment, reason: FinishReason) -> None:
        with self._lock:
            if segment not in self._open:
                return
            if reason is FinishReason.LENGTH:
                self._reason = reason
            segment.is_spoken = True
            while self._open and self._open[0].is_spoken:
                self._open.pop(0).note_costs()
                if self._open:
                    for samples in self._open[0].take_held():
                        self._put(self._open[0], samples)
        self.advance()
        self._finish_if_spoken()

    def _failed(self, segment: _Segment, error: LightTTSError) -> None:
        """A segment cannot go on. Begins the request again if a stage was lost before anything was sent."""
        with self._lock:
            if segment not in self._open:
                return  # of an attempt that was given up
            stats = self.stream.stats
            is_first_loss = isinstance(error, StageLost) and stats.retries < MAX_RETRIES
            if self._when_revived is None or not is_first_loss or stats.chunks:
                segments = None
            else:
                segments, self._open = self._open, []
                self._num_started, self._is_suspended = 0, True
                stats.retries += 1
        if segments is None:
            self.fail(error)
            return
        for lost in segments:
            lost.abort()
        stats.speech_tokens = 0
        assert self._when_revived is not None
        self._when_revived(self._begin_again)

    def _begin_again(self) -> None:
        with self._lock:
            self._is_suspended = False
            self._job = replace(self.job, clock=PlaybackClock())
        self.advance()

    def _finish_if_spoken(self) -> None:
        with self._lock:
            if self._is_over or not self._is_complete or self._open or self._num_started < len(self._starts):
                return
            self._is_over = True
        self.stream.end(self._reason)
        for callback in self._when_over:
            callback()


class _Segment:
    """One segment: token sink towards the language model, chunk sink towards the decoder."""

    def __init__(self, narration: Narration, index: int) -> None:
        self.held: list[np.ndarray] = []
        self.has_all_tokens = False
        self.has_spoken = False
        self.is_spoken = False
        self.index = index
        self._narration = narration
        self._run: AcousticRun | None = None
        self._source: SpeechSource | None = None

    def start(self, decoder: AcousticDecoder, job: AcousticJob) -> None:
        narration = self._narration
        self._run = decoder.open(job, _AudioSide(self, narration))
        if narration.stream.stats.is_voice_cached is None:
            narration.stream.stats.is_voice_cached = decoder.has_voice(self._run)
        sink: TokenSink = _TokenSide(self, narration, self._run)
        self._source = narration._starts[self.index](sink, self.index)

    @property
    def is_paused(self) -> bool:
        return self._run is not None and self._run.is_paused

    def abort(self) -> None:
        if self._source is not None:
            self._source.abort()
        if self._run is not None:
            self._run.cancel()
        self.note_costs()

    def note_costs(self) -> None:
        """Add what the segment cost to what the request has cost. Once, when it ends."""
        stats = self._narration.stream.stats
        if self._source is not None:
            stats.llm_ms += self._source.busy_s * 1000.0
        if self._run is not None:
            stats.speech_tokens += len(self._run.tokens)
            stats.flow_ms += self._run.flow_s * 1000.0
            stats.vocoder_ms += self._run.vocoder_s * 1000.0

    def take_held(self) -> list[np.ndarray]:
        held, self.held = self.held, []
        return held


class _TokenSide:
    """TokenSink: passes tokens on to the acoustic run, and lets the next segment start when they end."""

    def __init__(self, segment: _Segment, narration: Narration, run: AcousticRun) -> None:
        self._segment = segment
        self._narration = narration
        self._run = run
        self._started_s = time.monotonic()
        self._first_s: float | None = None
        # A step brings each of hundreds of runs a token; only a trace asks when the first one came.
        self.put: Callable[[Sequence[int]], None] = run.put if narration.stream.trace is None else self._put_noting

    def _put_noting(self, tokens: Sequence[int]) -> None:
        if self._first_s is None:
            self._first_s = time.monotonic()
        self._run.put(tokens)

    def end(self, reason: FinishReason) -> None:
        self._trace()
        self._segment.has_all_tokens = True
        self._run.end(reason)
        self._narration.advance()

    def fail(self, error: Exception) -> None:
        self._trace()
        if not isinstance(error, LightTTSError):
            error = EngineFailure(f"The speech source failed ({type(error).__name__}).")
        self._narration._failed(self._segment, error)

    def _trace(self) -> None:
        trace, now_s = self._narration.stream.trace, time.monotonic()
        if trace is None:
            return
        first_s = self._first_s or now_s
        trace.span("llm", "first token", self._started_s, first_s, segment=self._segment.index)
        trace.span("llm", "decode", first_s, now_s, segment=self._segment.index, tokens=len(self._run.tokens))


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
        self._narration._failed(self._segment, error)
