"""One segment of one request on its way from speech tokens to audio: what the decoder's thread knows of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from light_tts.acoustic.chunking import Hop, HopPlan
from light_tts.acoustic.planner import Candidate
from light_tts.acoustic.speed import MelResampler
from light_tts.errors import LightTTSError
from light_tts.types import FRAMES_PER_TOKEN, SAMPLE_RATE_HZ, TOKEN_RATE_HZ, FinishReason, FlowPrompt

if TYPE_CHECKING:
    from light_tts.acoustic.flow_stream import FlowStream
    from light_tts.acoustic.vocoder import WaveStream
    from light_tts.trace import RequestTrace


USUAL_FLOW_STEPS = 10  # costs are counted in hops of so many Euler steps


class ChunkSink(Protocol):
    """Receives the audio of one run, in order, on the decoder's thread; must not block."""

    @property
    def has_room(self) -> bool:
        """False while the reader is too far behind; the run pauses until `AcousticDecoder.wake`."""

    def put(self, samples: np.ndarray) -> None:
        """[N] float32 samples at 24 kHz."""

    def end(self, reason: FinishReason) -> None:
        """All audio of the run has been put."""

    def fail(self, error: LightTTSError) -> None:
        """The run ended with an error."""


class PlaybackClock:
    """What a listener who plays from the first chunk on has still to hear. Decoder's thread only.

    Shared by the runs of one request, which are heard in the order of their keys: audio of a later run does not help
    the one before it.
    """

    def __init__(self) -> None:
        self._first_s: float | None = None
        self._sent_s: dict[int, float] = {}
        self._expected_s: dict[int, float] = {}

    def note(self, key: int, num_samples: int, now_s: float) -> None:
        """Audio of a run was handed over."""
        if self._first_s is None:
            self._first_s = now_s
        self._sent_s[key] = self._sent_s.get(key, 0.0) + num_samples / SAMPLE_RATE_HZ

    def expect(self, key: int, seconds: float) -> None:
        """So much audio is still to come from a run that has all its tokens; 0 when it has ended."""
        self._expected_s[key] = seconds

    def unplayed_s(self, key: int, now_s: float) -> float | None:
        """Seconds until the listener needs the next audio of this run, negative when it is late.

        None when nothing is to be heard before it and nothing has been: it is the first audio.
        """
        ahead_s = sum(seconds for other, seconds in self._sent_s.items() if other <= key)
        ahead_s += sum(seconds for other, seconds in self._expected_s.items() if other < key)
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


class AcousticRun:
    """One segment on its way to audio. A `TokenSink`; made by `AcousticDecoder.open`.

    Tokens arrive on other threads under `condition`; everything else belongs to the decoder's thread.
    """

    def __init__(
        self,
        key: int,
        job: AcousticJob,
        sink: ChunkSink,
        plan: HopPlan,
        flow: FlowStream,
        vocoder: WaveStream,
        condition: threading.Condition,
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
        self.flow_s = 0.0  # share of the time of the calls it was served in
        self.vocoder_s = 0.0
        self._condition = condition
        self._last_service_s = time.monotonic() if opened_s is None else opened_s
        self._due_since_s: float | None = None

    def put(self, tokens: Sequence[int]) -> None:
        """Take speech tokens from the language model."""
        with self._condition:
            self.tokens.extend(tokens)
            if self.job.stream and self.plan.is_due(len(self.tokens), ended=False):
                self._condition.notify()

    def end(self, reason: FinishReason) -> None:
        """The last token has arrived."""
        with self._condition:
            self.reason = reason
            self._condition.notify()

    def fail(self, error: Exception) -> None:
        """The language model gave up; what was not spoken yet is dropped."""
        with self._condition:
            self.error = error
            self._condition.notify()

    def cancel(self) -> None:
        """Drop the run; its states are freed at the next turn of the decoder's thread."""
        with self._condition:
            self.is_cancelled = True
            self._condition.notify()

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
        ended = self.reason is not None
        if ended:
            rest_tokens = len(self.tokens) - self.plan.offset_tokens
            self.job.clock.expect(self.key, rest_tokens / TOKEN_RATE_HZ / self.job.speed)
        if not self.sink.has_room or (not self.job.stream and not ended):
            return None
        smallest = self.plan.smallest_hop(len(self.tokens), ended)
        if smallest is None:
            return None
        if self._due_since_s is None:
            self._due_since_s = now_s
        due_s = now_s - self._due_since_s
        unplayed_s = self.job.clock.unplayed_s(self.key, now_s)
        is_heard = unplayed_s is not None
        can_wait = is_heard and not ended and self.plan.offset_tokens > 0
        return Candidate(
            key=self.key,
            frames=self.frames_of(smallest),
            waiting_s=now_s - self._last_service_s,
            unplayed_s=unplayed_s,
            due_s=due_s,
            more_chunks=self.plan.more_chunks(smallest, len(self.tokens), ended=ended) if is_heard else 0,
            chunk_frames=self._weighted(FRAMES_PER_TOKEN * self.plan.chunk_tokens),
            can_grow=can_wait and self._can_grow(smallest, is_crowded),
            hold_s=boundary_wait_s - due_s if can_wait else 0.0,
            is_buffered=not self.job.stream,
        )

    def hop_with(self, more_chunks: int) -> Hop:
        """The smallest hop that can run now with so many of the chunks that it could take along."""
        ended, available = self.reason is not None, len(self.tokens)
        hop = self.plan.smallest_hop(available, ended)
        assert hop is not None, "the planner chooses among hops that were offered"
        return self.plan.grown(hop, more_chunks, available, ended=ended)

    def frames_of(self, hop: Hop) -> int:
        """Mel frames that the flow computes for a hop, in frames of the usual number of Euler steps."""
        prompt_tokens = int(self.job.prompt.tokens.shape[0])
        kept_tokens = 0 if hop.full_mask else min(self.flow.kept_tokens, prompt_tokens + hop.offset_tokens)
        end = prompt_tokens + hop.offset_tokens + hop.hop_tokens
        return self._weighted(FRAMES_PER_TOKEN * (end - kept_tokens))

    def _can_grow(self, smallest: Hop, is_crowded: bool) -> bool:
        chunks = self.plan.more_chunks(smallest, len(self.tokens), ended=False)
        hop = self.plan.grown(smallest, chunks, len(self.tokens), ended=False)
        return self.plan.can_grow(hop, beyond_schedule=is_crowded)

    def _weighted(self, frames: int) -> int:
        return -(-frames * self.job.flow_steps // USUAL_FLOW_STEPS)

    def served(self, hop: Hop, num_samples: int, now_s: float) -> None:
        """A hop has run and given so much audio."""
        self.plan.advance(hop)
        self._last_service_s = now_s
        self._due_since_s = None
        if hop.is_final:
            self.job.clock.expect(self.key, 0.0)
        if num_samples:
            self.job.clock.note(self.key, num_samples, now_s)

    def close(self) -> None:
        """Free the states of flow and vocoder."""
        self.flow.close()
        self.vocoder.close()
