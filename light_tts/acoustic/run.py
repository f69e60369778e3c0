"""One segment of one request on its way from speech tokens to audio: what the decoder's lanes know of it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from light_tts.acoustic.candidate import Candidate
from light_tts.acoustic.chunking import Hop, HopPlan
from light_tts.acoustic.speed import MelResampler
from light_tts.errors import LightTTSError
from light_tts.types import FRAMES_PER_TOKEN, SAMPLE_RATE_HZ, TOKEN_RATE_HZ, FinishReason, FlowPrompt

if TYPE_CHECKING:
    from light_tts.acoustic.flow_stream import FlowStream
    from light_tts.acoustic.vocoder import WaveStream
    from light_tts.trace import RequestTrace


USUAL_FLOW_STEPS = 10  # costs are counted in hops of so many Euler steps


class ChunkSink(Protocol):
    """Receives the audio of one run, in order, on a lane's thread; must not block."""

    @property
    def has_room(self) -> bool:
        """False while the reader is too far behind; the run pauses until `AcousticDecoder.wake`."""

    def put(self, samples: np.ndarray) -> None:
        """[N] float32 samples at 24 kHz."""

    def end(self, reason: FinishReason) -> None:
        """All audio of the run has been put."""

    def fail(self, error: LightTTSError) -> None:
        """The run ended with an error."""


class News(Protocol):
    """Whom runs tell that there is something new to decide; a context in which the lock of all runs is held."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> object: ...

    def notify(self) -> None:
        """Wake who decides. The lock is held."""


class PlaybackClock:
    """What a listener who plays from the first chunk on has still to hear. Any thread of the decoder.

    Shared by the runs of one request, which are heard in the order of their keys: audio of a later run does not help
    the one before it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first_s: float | None = None
        self._is_playing = False  # otherwise the first moment is only expected
        self._sent_s: dict[int, float] = {}
        self._expected_s: dict[int, float] = {}
        self._ahead_s: dict[int, float] = {}  # to be heard before a run's next audio; asked for far more often than new

    def note(self, key: int, num_samples: int, due_s: float) -> None:
        """Audio of a run is handed over, or will be at about this moment."""
        with self._lock:
            if self._first_s is None:
                self._first_s = due_s
            self._sent_s[key] = self._sent_s.get(key, 0.0) + num_samples / SAMPLE_RATE_HZ
            self._ahead_s = {}

    def arrived(self, now_s: float) -> None:
        """Audio that was noted has been handed over."""
        with self._lock:
            if not self._is_playing:
                self._is_playing, self._first_s = True, now_s

    def expect(self, key: int, seconds: float) -> None:
        """So much audio is still to come from a run that has all its tokens; 0 when it has ended."""
        with self._lock:
            self._expected_s[key] = seconds
            self._ahead_s = {}

    def unplayed_s(self, key: int, now_s: float) -> float | None:
        """Seconds until the listener needs the next audio of this run, negative when it is late.

        None when nothing is to be heard before it and nothing has been: it is the first audio.
        """
        with self._lock:
            ahead_s = self._ahead_s.get(key)
            if ahead_s is None:
                ahead_s = sum(seconds for other, seconds in self._sent_s.items() if other <= key)
                ahead_s += sum(seconds for other, seconds in self._expected_s.items() if other < key)
                self._ahead_s[key] = ahead_s
            if self._first_s is None:
                return ahead_s or None
            return ahead_s - (now_s - self._first_s)


@dataclass(frozen=True, eq=False)
class AcousticJob:
    """What a run needs besides its tokens.

    seed:     of the vocoder's noise.
    stream:   True emits hops under the chunk mask; False decodes everything at the end, under the full mask.
    clock:    shared by the segments of one request.
    trace:    of the request, if one is made.
    """

    prompt: FlowPrompt
    seed: int
    flow_steps: int
    speed: float = 1.0
    stream: bool = True
    clock: PlaybackClock = field(default_factory=PlaybackClock)
    trace: RequestTrace | None = None


class _Standing(NamedTuple):
    """What a run could do, from one piece of news to the next: tokens for a larger hop, the end, a hop that was served.

    hop:           the smallest that can run now; None: tokens are missing.
    frames:        of that hop; None: must be asked each time, since another run may bring the voice's states.
    more_chunks:   that the hop could take along; `last_frames` of the last of them.
    grows_alone:   waiting could bring it to its planned size.
    grows:         waiting could bring it to the largest one.
    ends:          with all of them it is the last.
    """

    ended: bool
    hop: Hop | None = None
    frames: int | None = None
    more_chunks: int = 0
    last_frames: int | None = None
    grows_alone: bool = False
    grows: bool = False
    ends: bool = False


class AcousticRun:
    """One segment on its way to audio. A `TokenSink`; made by `AcousticDecoder.open`.

    Tokens, their end and cancellations come from other threads; everything else belongs to the decoder's threads: to
    the one that holds the run, or, while none does, to whoever has the lock of `news`. They are told when there is
    something new to decide: a token alone mostly is not.

    is_paused:  the reader had no room when the decoder looked last, and must wake it.
    """

    def __init__(
        self,
        key: int,
        job: AcousticJob,
        sink: ChunkSink,
        plan: HopPlan,
        flow: FlowStream,
        vocoder: WaveStream,
        news: News,
        opened_s: float | None = None,
    ) -> None:
        self.key = key
        self.job = job
        self.sink = sink
        self.plan = plan
        self.flow = flow
        self.vocoder = vocoder
        self.resampler = MelResampler(job.speed) if job.speed != 1.0 else None
        self.tokens: list[int] = []
        self.reason: FinishReason | None = None  # set when the last token has arrived
        self.error: Exception | None = None
        self.is_cancelled = False
        self.is_paused = False
        self.flow_s = 0.0  # share of the time of the calls it was served in
        self.vocoder_s = 0.0
        self._holder: object | None = None
        self._num_held = 0
        self._news = news
        self._last_service_s = time.monotonic() if opened_s is None else opened_s
        self._due_since_s: float | None = None
        self._standing: _Standing | None = None
        self._chunk_frames = self._weighted(FRAMES_PER_TOKEN * plan.chunk_tokens)
        self._news_at_tokens = math.inf
        if job.stream and plan.tokens_needed is not None:
            self._news_at_tokens = plan.tokens_needed

    def put(self, tokens: Sequence[int]) -> None:
        """Take speech tokens from the language model; without the lock, which the decoder holds while it decides."""
        self.tokens.extend(tokens)
        if len(self.tokens) >= self._news_at_tokens:
            self._trace_news()
            with self._news:
                # Told once; the next look says what is news after that.
                self._standing, self._news_at_tokens = None, math.inf
                self._news.notify()

    def end(self, reason: FinishReason) -> None:
        """The last token has arrived."""
        self._trace_news()
        with self._news:
            self.reason = reason
            self._news.notify()

    def fail(self, error: Exception) -> None:
        """The language model gave up; what was not spoken yet is dropped."""
        with self._news:
            self.error = error
            self._news.notify()

    def cancel(self) -> None:
        """Drop the run; its states are freed at a lane's next turn."""
        with self._news:
            self.is_cancelled = True
            self._news.notify()

    def _trace_news(self) -> None:
        if self.job.trace is not None:
            self.job.trace.instant("flow", "hop can run", time.monotonic())

    @property
    def is_dead(self) -> bool:
        """Nobody wants it any more, or it cannot go on."""
        return self.is_cancelled or self.error is not None

    def hold(self, holder: object) -> None:
        """A call of the holder computes a hop; as often as it has calls under way. The lock is held, here and below."""
        self._holder, self._num_held = holder, self._num_held + 1

    def let_go(self) -> None:
        """One of these calls has ended."""
        self._num_held -= 1
        if not self._num_held:
            self._holder = None

    def is_free_for(self, holder: object) -> bool:
        """True unless another one holds it."""
        return self._holder is None or self._holder is holder

    @property
    def is_unheard(self) -> bool:
        """A listener waits for the first audio of this run's request."""
        return self.job.stream and self.job.clock.unplayed_s(self.key, 0.0) is None

    def dry_s(self, now_s: float) -> float | None:
        """When the listener runs dry; None when nobody listens yet or cannot take more."""
        can_listen = self.job.stream and self.sink.has_room and not self.plan.is_finished
        return self.job.clock.unplayed_s(self.key, now_s) if can_listen else None

    def offer(self, now_s: float, *, is_crowded: bool, boundary_wait_s: float = 0.0) -> Candidate | None:
        """The hop that can run now, as the planner sees it.

        is_crowded:       other streams are open; then a hop that can wait may grow beyond the plan's schedule.
        boundary_wait_s:  a hop waits so long for the end of the text, whose tail would join it; never a first one.
        """
        standing = self._standing
        if standing is None or standing.ended is (self.reason is None):
            standing = self._look_again()
        if self._finds_no_room() or standing.hop is None:
            return None
        if self._due_since_s is None:
            self._due_since_s = now_s
        due_s = now_s - self._due_since_s
        unplayed_s = self.job.clock.unplayed_s(self.key, now_s)
        is_heard = unplayed_s is not None
        can_wait = is_heard and not standing.ended and self.plan.offset_tokens > 0
        frames = self.frames_of(standing.hop) if standing.frames is None else standing.frames
        return Candidate(
            self.key,
            frames,
            now_s - self._last_service_s,
            unplayed_s,
            due_s,
            standing.more_chunks if is_heard else 0,
            self._chunk_frames,
            standing.last_frames,
            frames - self._weighted(FRAMES_PER_TOKEN * standing.hop.hop_tokens),
            can_wait and (standing.grows if is_crowded else standing.grows_alone),
            boundary_wait_s - due_s if can_wait else 0.0,
            not self.job.stream,
            standing.ends,
        )

    def _finds_no_room(self) -> bool:
        if self.sink.has_room:
            self.is_paused = False
            return False
        self.is_paused = True
        # The reader may have made room just before it could know that somebody waits for it.
        return not self.sink.has_room

    def _look_again(self) -> _Standing:
        """What the run could do with the tokens that it has, and with how many it could do more."""
        ended = self.reason is not None
        while True:
            available = len(self.tokens)
            self._news_at_tokens = math.inf
            standing = _Standing(ended)
            if ended:
                rest_tokens = available - self.plan.offset_tokens
                self.job.clock.expect(self.key, rest_tokens / TOKEN_RATE_HZ / self.job.speed)
            if ended or self.job.stream:
                standing = self._standing_with(available, ended)
            if not ended and self.job.stream:
                self._news_at_tokens = self.plan.next_change(available) or math.inf
            self._standing = standing
            # One that came meanwhile did not know that it is news.
            if len(self.tokens) < self._news_at_tokens:
                return standing

    def _standing_with(self, available: int, ended: bool) -> _Standing:
        plan = self.plan
        hop = plan.smallest_hop(available, ended)
        if hop is None:
            return _Standing(ended)
        if hop.offset_tokens:
            plan.again_tokens = self._again_tokens(hop)
        chunks = plan.more_chunks(hop, available, ended=ended)
        largest = plan.grown(hop, chunks, available, ended=ended)
        last_frames = None
        if ended and chunks:
            before = plan.grown(hop, chunks - 1, available, ended=True)
            last_frames = self._weighted(FRAMES_PER_TOKEN * (largest.hop_tokens - before.hop_tokens))
        return _Standing(
            ended,
            hop,
            self.frames_of(hop) if hop.offset_tokens else None,
            chunks,
            last_frames,
            grows_alone=plan.can_grow(largest),
            grows=plan.can_grow(largest, beyond_schedule=True),
            ends=largest.is_final,
        )

    def hop_with(self, more_chunks: int) -> Hop:
        """The smallest hop that can run now with so many of the chunks that it could take along."""
        ended, available = self.reason is not None, len(self.tokens)
        hop = self.plan.smallest_hop(available, ended)
        assert hop is not None, "the planner chooses among hops that were offered"
        return self.plan.grown(hop, more_chunks, available, ended=ended)

    def frames_of(self, hop: Hop) -> int:
        """Mel frames that the flow computes for a hop, in frames of the usual number of Euler steps."""
        return self._weighted(FRAMES_PER_TOKEN * (self._again_tokens(hop) + hop.hop_tokens))

    def _again_tokens(self, hop: Hop) -> int:
        """Tokens before a hop, the prompt's among them, that the flow computes with it for want of their states."""
        before = int(self.job.prompt.tokens.shape[0]) + hop.offset_tokens
        return before if hop.full_mask else max(0, before - self.flow.kept_tokens)

    def _weighted(self, frames: int) -> int:
        return -(-frames * self.job.flow_steps // USUAL_FLOW_STEPS)

    def launched(self, hop: Hop, num_samples: int, now_s: float, due_s: float) -> None:
        """A hop is being computed and will give so much audio, at about `due_s`."""
        self.plan.advance(hop)
        self._last_service_s = now_s
        self._due_since_s = self._standing = None
        if hop.is_final:
            self.job.clock.expect(self.key, 0.0)
        if num_samples:
            self.job.clock.note(self.key, num_samples, due_s)

    def heard(self, now_s: float) -> None:
        """Audio of a launched hop was handed over."""
        self.job.clock.arrived(now_s)

    def served(self, hop: Hop, num_samples: int, now_s: float) -> None:
        """A hop has run and given so much audio."""
        self.launched(hop, num_samples, now_s, now_s)
        if num_samples:
            self.heard(now_s)

    def close(self) -> None:
        """Free the states of flow and vocoder."""
        self.flow.close()
        self.vocoder.close()


Work = list[tuple[AcousticRun, Hop]]  # the hops of one call
