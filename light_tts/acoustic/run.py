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
from light_tts.types import SAMPLE_RATE_HZ, FinishReason, FlowPrompt

if TYPE_CHECKING:
    from light_tts.acoustic.flow_stream import FlowStream
    from light_tts.acoustic.vocoder import VocoderStream


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
    """What a listener who plays from the first chunk on has still to hear. Decoder's thread only."""

    def __init__(self) -> None:
        self._first_s: float | None = None
        self._sent_s = 0.0

    def note(self, num_samples: int, now_s: float) -> None:
        """Audio was handed over."""
        if self._first_s is None:
            self._first_s = now_s
        self._sent_s += num_samples / SAMPLE_RATE_HZ

    def unplayed_s(self, now_s: float) -> float | None:
        """Seconds of audio not yet played, negative when the listener has run dry; None before the first audio."""
        return None if self._first_s is None else self._sent_s - (now_s - self._first_s)


@dataclass(frozen=True, eq=False)
class AcousticJob:
    """What a run needs besides its tokens.

    seed:     of the vocoder's noise.
    stream:   True emits hops under the chunk mask; False decodes everything at the end, under the full mask.
    clock:    shared by the segments of one request.
    """

    prompt: FlowPrompt
    seed: int
    flow_steps: int
    speed: float = 1.0
    stream: bool = True
    clock: PlaybackClock = field(default_factory=PlaybackClock)


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
        vocoder: VocoderStream,
        condition: threading.Condition,
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
        self._condition = condition
        self._last_service_s = time.monotonic()
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

    def offer(self, now_s: float, *, largest: bool) -> tuple[Hop, Candidate] | None:
        """The hop that can run now, as it is and as the planner sees it.

        largest:  take all chunks that are there (other streams are open, and this one has been heard).
        """
        ended = self.reason is not None
        if not self.sink.has_room or (not self.job.stream and not ended):
            return None
        unplayed_s = self.job.clock.unplayed_s(now_s)
        hop = self.plan.next_hop(len(self.tokens), ended, largest=largest and unplayed_s is not None)
        if hop is None:
            return None
        if self._due_since_s is None:
            self._due_since_s = now_s
        candidate = Candidate(
            key=self.key,
            frames=hop.num_frames,
            waiting_s=now_s - self._last_service_s,
            unplayed_s=unplayed_s,
            due_s=now_s - self._due_since_s,
            can_grow=not ended and self.plan.can_grow(hop),
            is_buffered=not self.job.stream,
        )
        return hop, candidate

    def served(self, hop: Hop, num_samples: int, now_s: float) -> None:
        """A hop has run and given so much audio."""
        self.plan.advance(hop)
        self._last_service_s = now_s
        self._due_since_s = None
        if num_samples:
            self.job.clock.note(num_samples, now_s)

    def close(self) -> None:
        """Free the states of flow and vocoder."""
        self.flow.close()
        self.vocoder.close()
