"""Speech tokens to audio for many streams: a thread that runs the hops the planner chose.

Tokens of a run arrive on the language model's thread, its audio leaves on this thread through a `ChunkSink`. Everything
else of a run is owned by the decoder's thread alone. Knows nothing of text or HTTP.
"""

from __future__ import annotations

import logging
import threading
import time

import torch

from light_tts.acoustic.chunking import Hop, HopPlan, grid_pieces
from light_tts.acoustic.flow import FlowDecoder, FlowHop
from light_tts.acoustic.planner import plan
from light_tts.acoustic.run import AcousticJob, AcousticRun, ChunkSink
from light_tts.acoustic.stage_costs import CostTable
from light_tts.acoustic.vocoder import Vocoder, VocoderJob
from light_tts.errors import EngineFailure, LightTTSError
from light_tts.settings import AcousticSettings
from light_tts.types import FRAMES_PER_TOKEN, FinishReason

logger = logging.getLogger(__name__)

Work = list[tuple[AcousticRun, Hop]]


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
        self.costs = CostTable()
        self._condition = threading.Condition()
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
        with self._condition:
            self._closing = True
            self._condition.notify()
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
        hops = self._plan_for(job)
        flow = self.flow.open(job.prompt, steps=job.flow_steps, stream=job.stream)
        vocoder = self.vocoder.open(job.seed)
        with self._condition:
            if self.error is not None or self._closing:
                raise EngineFailure("The acoustic decoder is not running.")
            key = self._next_key
            self._next_key += 1
            run = AcousticRun(key, job, sink, hops, flow, vocoder, self._condition)
            self._runs[key] = run
        return run

    def wake(self) -> None:
        """A paused reader has room again."""
        with self._condition:
            self._condition.notify()

    def _plan_for(self, job: AcousticJob) -> HopPlan:
        prompt_tokens = int(job.prompt.tokens.shape[0])
        if not job.stream:
            return HopPlan.offline(prompt_tokens)
        first_hop_tokens = self._settings.first_hop_tokens
        if self._settings.prompt_alignment == "exact":
            # The reference's first hop is a whole chunk and what the prompt's last one lacks.
            first_hop_tokens = max(first_hop_tokens, self._chunk_tokens)
        return HopPlan.streaming(
            prompt_tokens,
            chunk_tokens=self._chunk_tokens,
            lookahead_tokens=self._lookahead_tokens,
            first_hop_tokens=first_hop_tokens,
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
        with self._condition:
            runs, self._runs = list(self._runs.values()), {}
        for run in runs:
            run.sink.fail(EngineFailure("The acoustic decoder stopped."))
            run.close()

    def _wait_for_work(self) -> Work | None:
        """Block until hops can run; returns the planner's choice, or None to stop. Ends dead runs on the way."""
        while True:
            with self._condition:
                if self._closing:
                    return None
                dead = [run for run in self._runs.values() if run.is_cancelled or run.error is not None]
                for run in dead:
                    del self._runs[run.key]
                if not dead:
                    work, recheck_s = self._choose()
                    if work:
                        return work
                    self._condition.wait(recheck_s)
            for run in dead:
                _bury(run)

    def _choose(self) -> tuple[Work, float | None]:
        """The planner's choice among the hops that can run, and when to look again."""
        now_s = time.monotonic()
        is_crowded = len(self._runs) > 1
        offers = {run.key: run.offer(now_s, largest=is_crowded) for run in self._runs.values()}
        hops = {key: offer[0] for key, offer in offers.items() if offer is not None}
        choice = plan(
            [offer[1] for offer in offers.values() if offer is not None],
            self.costs,
            max_batch=self._settings.max_batch,
            num_streams=len(self._runs),
        )
        return [(self._runs[key], hops[key]) for key in choice.keys], choice.recheck_s

    def _serve(self, work: Work) -> None:
        start_s = time.monotonic()
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
        # The samples are on the host before the clock is read: a GPU's work is done, not just queued.
        on_host = [samples.float().cpu() for samples in audio]
        now_s = time.monotonic()
        self.costs.observe(len(work), max(hop.num_frames for _, hop in work), now_s - start_s)
        for (run, hop), samples in zip(work, on_host, strict=True):
            self._emit(run, hop, samples, now_s)

    def _decode(self, work: Work) -> list[torch.Tensor]:
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
            pieces = list(torch.split(mel, list(cuts), dim=1)) if cuts else []
        if run.resampler is not None:
            last = max(0, len(pieces) - 1)
            pieces = [run.resampler.push(piece, hop.is_final and k == last) for k, piece in enumerate(pieces or [mel])]
        return tuple(piece for piece in pieces if piece.shape[1])

    def _emit(self, run: AcousticRun, hop: Hop, samples: torch.Tensor, now_s: float) -> None:
        run.served(hop, samples.numel(), now_s)
        if run.is_cancelled:
            return
        if samples.numel():
            run.sink.put(samples.numpy())
        if hop.is_final:
            self._end(run, None)

    def _end(self, run: AcousticRun, error: Exception | None) -> None:
        with self._condition:
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
