"""Speech tokens to audio for many streams: a thread that runs the hops the planner chose.

A run is one segment of one request. Its tokens arrive on the language model's thread (`put`, `end`, `fail`), its audio
leaves on this thread through a `ChunkSink`. Everything else of a run is owned by the decoder's thread alone.
Knows nothing of text or HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from light_tts.acoustic.chunking import Hop, HopPlan, grid_pieces
from light_tts.acoustic.flow import FlowDecoder, FlowHop
from light_tts.acoustic.planner import Candidate, choose
from light_tts.acoustic.speed import MelResampler
from light_tts.acoustic.vocoder import Vocoder, VocoderJob
from light_tts.errors import EngineFailure, LightTTSError
from light_tts.settings import AcousticSettings
from light_tts.types import FRAMES_PER_TOKEN, SAMPLE_RATE_HZ, FinishReason, FlowPrompt

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True, eq=False)
class AcousticJob:
    """What a run needs besides its tokens.

    stream:     True emits hops under the chunk mask; False decodes everything at the end, under the full mask.
    seed:       of the vocoder's noise.
    """

    prompt: FlowPrompt
    seed: int
    flow_steps: int
    speed: float = 1.0
    stream: bool = True


class AcousticRun:
    """One segment on its way to audio. A `TokenSink`; made by `AcousticDecoder.open`."""

    def __init__(self, decoder: AcousticDecoder, job: AcousticJob, sink: ChunkSink, plan: HopPlan, key: int) -> None:
        self.job = job
        self.sink = sink
        self.plan = plan
        self.key = key
        self.tokens: list[int] = []
        self.reason: FinishReason | None = None  # set when the last token has arrived
        self.error: Exception | None = None
        self.is_cancelled = False
        self.last_service_s = time.monotonic()
        self.first_audio_s: float | None = None
        self.sent_samples = 0
        self.flow = decoder.flow.open(job.prompt, steps=job.flow_steps, stream=job.stream)
        self.vocoder = decoder.vocoder.open(job.seed)
        self.resampler = MelResampler(job.speed) if job.speed != 1.0 else None
        self._decoder = decoder

    def put(self, tokens: Sequence[int]) -> None:
        """Take speech tokens from the language model."""
        with self._decoder.condition:
            self.tokens.extend(tokens)
            if self.job.stream and self.plan.is_due(len(self.tokens), ended=False):
                self._decoder.condition.notify()

    def end(self, reason: FinishReason) -> None:
        """The last token has arrived."""
        with self._decoder.condition:
            self.reason = reason
            self._decoder.condition.notify()

    def fail(self, error: Exception) -> None:
        """The language model gave up; what was not spoken yet is dropped."""
        with self._decoder.condition:
            self.error = error
            self._decoder.condition.notify()

    def cancel(self) -> None:
        """Drop the run; its states are freed at the next turn of the decoder's thread."""
        with self._decoder.condition:
            self.is_cancelled = True
            self._decoder.condition.notify()

    def next_hop(self) -> Hop | None:
        """The hop that can run now, if any."""
        ended = self.reason is not None
        if not self.job.stream and not ended:
            return None
        return self.plan.next_hop(len(self.tokens), ended)

    def unplayed_s(self, now_s: float) -> float | None:
        """Audio sent and not yet played by a player that started at the first chunk; None before that."""
        if self.first_audio_s is None:
            return None
        return self.sent_samples / SAMPLE_RATE_HZ - (now_s - self.first_audio_s)

    def close(self) -> None:
        """Free the states of flow and vocoder."""
        self.flow.close()
        self.vocoder.close()


class AcousticDecoder:
    """Flow and vocoder behind one thread. `open` a run, feed it tokens, take audio from its sink."""

    def __init__(
        self,
        flow: FlowDecoder,
        vocoder: Vocoder,
        settings: AcousticSettings,
        *,
        chunk_tokens: int,
        lookahead_tokens: int,
    ) -> None:
        self.flow = flow
        self.vocoder = vocoder
        self.condition = threading.Condition()
        self._settings = settings
        self._chunk_tokens = chunk_tokens
        self._lookahead_tokens = lookahead_tokens
        self._runs: dict[int, AcousticRun] = {}
        self._next_key = 0
        self._closing = False
        self.error: BaseException | None = None  # set when the thread died
        self._thread = threading.Thread(target=self._main, name="acoustic", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread; runs that are still open fail."""
        with self.condition:
            self._closing = True
            self.condition.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """True while the thread serves."""
        return self._thread.is_alive() and self.error is None

    @property
    def num_runs(self) -> int:
        """Runs that are open."""
        return len(self._runs)

    def open(self, job: AcousticJob, sink: ChunkSink) -> AcousticRun:
        """Start a run. Raises EngineFailure when the thread is gone."""
        plan = self._plan_for(job)
        with self.condition:
            if self.error is not None or self._closing:
                raise EngineFailure("The acoustic decoder is not running.")
            key = self._next_key
            self._next_key += 1
            run = AcousticRun(self, job, sink, plan, key)
            self._runs[key] = run
        return run

    def wake(self) -> None:
        """A paused reader has room again."""
        with self.condition:
            self.condition.notify()

    def _plan_for(self, job: AcousticJob) -> HopPlan:
        prompt_tokens = int(job.prompt.tokens.shape[0])
        if not job.stream:
            return HopPlan.offline(prompt_tokens)
        return HopPlan.streaming(
            prompt_tokens,
            chunk_tokens=self._chunk_tokens,
            lookahead_tokens=self._lookahead_tokens,
            first_hop_tokens=self._settings.first_hop_tokens,
            max_hop_tokens=self._settings.max_hop_tokens,
            final_full_mask=self._settings.final_hop_mask == "full",
        )

    # the thread

    def _main(self) -> None:
        try:
            with torch.inference_mode():
                while True:
                    work = self._wait_for_work()
                    if work is None:
                        break
                    self._serve(work)
        except BaseException as error:
            logger.exception("the acoustic decoder's thread died")
            self.error = error
        with self.condition:
            runs, self._runs = list(self._runs.values()), {}
        for run in runs:
            run.sink.fail(EngineFailure("The acoustic decoder stopped."))
            run.close()

    def _wait_for_work(self) -> list[tuple[AcousticRun, Hop]] | None:
        """Block until hops can run; returns the planner's choice, or None to stop. Ends dead runs on the way."""
        while True:
            with self.condition:
                if self._closing:
                    return None
                dead = [run for run in self._runs.values() if run.is_cancelled or run.error is not None]
                for run in dead:
                    del self._runs[run.key]
                due = [] if dead else self._due()
                if not dead and not due:
                    self.condition.wait()
                    continue
            for run in dead:
                _bury(run)
            if due:
                return due

    def _due(self) -> list[tuple[AcousticRun, Hop]]:
        now_s = time.monotonic()
        hops: dict[int, Hop] = {}
        candidates = []
        for run in self._runs.values():
            hop = run.next_hop() if run.sink.has_room else None
            if hop is None:
                continue
            hops[run.key] = hop
            candidates.append(
                Candidate(run.key, now_s - run.last_service_s, run.unplayed_s(now_s), is_buffered=not run.job.stream)
            )
        return [(self._runs[key], hops[key]) for key in choose(candidates, self._settings.max_batch)]

    def _serve(self, work: list[tuple[AcousticRun, Hop]]) -> None:
        try:
            audio = self._decode(work)
        except Exception as error:
            if len(work) == 1:
                self._end(work[0][0], error)
                return
            # One stream spoils the batch: serve each alone, so that only the guilty one ends.
            logger.warning("a batch of %d hops failed (%s); running them one by one", len(work), error)
            for item in work:
                self._serve([item])
            return
        for (run, hop), samples in zip(work, audio, strict=True):
            self._emit(run, hop, samples)

    def _decode(self, work: list[tuple[AcousticRun, Hop]]) -> list[torch.Tensor]:
        """Mel, then samples, of all hops together."""
        mels = self.flow.decode(
            [
                FlowHop(
                    stream=run.flow,
                    tokens=torch.tensor(run.tokens[: hop.visible_tokens], dtype=torch.int64),
                    offset_tokens=hop.offset_tokens,
                    is_final=hop.is_final,
                    full_mask=hop.full_mask,
                )
                for run, hop in work
            ]
        )
        jobs = [
            VocoderJob(run.vocoder, self._pieces(run, hop, mel), hop.is_final)
            for (run, hop), mel in zip(work, mels, strict=True)
        ]
        return self.vocoder.decode(jobs)

    def _pieces(self, run: AcousticRun, hop: Hop, mel: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The hop's frames cut at the chunk grid, so that the audio does not depend on how hops were chosen."""
        if not run.job.stream:
            pieces = [mel]
        else:
            cuts = grid_pieces(
                FRAMES_PER_TOKEN * hop.offset_tokens,
                int(mel.shape[1]),
                prompt_frames=FRAMES_PER_TOKEN * int(run.job.prompt.tokens.shape[0]),
                chunk_frames=FRAMES_PER_TOKEN * self._chunk_tokens,
            )
            pieces = list(mel.split(cuts, dim=1)) if cuts else []
        if run.resampler is not None:
            last = len(pieces) - 1
            pieces = [run.resampler.push(piece, hop.is_final and k == last) for k, piece in enumerate(pieces)]
        return tuple(piece for piece in pieces if piece.shape[1])

    def _emit(self, run: AcousticRun, hop: Hop, samples: torch.Tensor) -> None:
        run.plan.advance(hop)
        now_s = time.monotonic()
        run.last_service_s = now_s
        if run.is_cancelled:
            return
        if samples.numel():
            if run.first_audio_s is None:
                run.first_audio_s = now_s
            run.sent_samples += int(samples.numel())
            run.sink.put(samples.float().cpu().numpy())
        if hop.is_final:
            self._end(run, None)

    def _end(self, run: AcousticRun, error: Exception | None) -> None:
        with self.condition:
            self._runs.pop(run.key, None)
        run.error = error
        _bury(run)


def _bury(run: AcousticRun) -> None:
    """Free a run and tell its sink, unless the reader itself went away."""
    run.close()
    if run.is_cancelled:
        return
    if run.error is None:
        run.sink.end(run.reason or FinishReason.STOP)
    elif isinstance(run.error, LightTTSError):
        run.sink.fail(run.error)
    else:
        logger.error("a stream failed", exc_info=run.error)
        run.sink.fail(EngineFailure("The synthesis failed inside the acoustic model."))
