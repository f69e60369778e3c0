"""Speech tokens to audio for many streams: a thread that runs the hops the planner chose.

Tokens of a run arrive on the language model's thread, its audio leaves on this thread through a `ChunkSink`. Everything
else of a run is owned by the decoder's thread alone. Knows nothing of text or HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from light_tts.acoustic.choice import choose_hops, hop_plan_for
from light_tts.acoustic.chunking import Hop, grid_pieces
from light_tts.acoustic.flow import FlowDecoder, FlowHop
from light_tts.acoustic.flow_cache import ByteBudget, PromptCache
from light_tts.acoustic.run import AcousticJob, AcousticRun, ChunkSink
from light_tts.acoustic.stage_costs import CostTable
from light_tts.acoustic.stage_timer import StageTimer
from light_tts.acoustic.vocoder import VocoderJob, WaveDecoder
from light_tts.errors import EngineFailure, LightTTSError, StageLost
from light_tts.events import NO_EVENTS, AcousticCall, EngineEvents
from light_tts.gpu_turns import NO_TURNS, GpuTurns
from light_tts.models.device_errors import is_device_lost
from light_tts.settings import AcousticSettings
from light_tts.types import FRAMES_PER_TOKEN, SAMPLE_RATE_HZ, FinishReason

logger = logging.getLogger(__name__)

Work = list[tuple[AcousticRun, Hop]]

# So many calls in a row in which every hop failed, also alone, mean that the fault is not in the streams.
MAX_FAILURES = 3
_Item = TypeVar("_Item")


class AcousticDecoder:
    """Flow and vocoder behind one thread. `open` a run, feed it tokens, take audio from its sink."""

    def __init__(
        self,
        flow: FlowDecoder,
        vocoder: WaveDecoder,
        settings: AcousticSettings,
        *,
        chunk_tokens: int,
        lookahead_tokens: int,
        events: EngineEvents = NO_EVENTS,
        turns: GpuTurns = NO_TURNS,
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
        self._events = events
        self._turns = turns
        self._num_failures = 0
        self._unexpected: Exception | None = None  # of the call that is running
        self.on_death: Callable[[], None] = _nothing  # the thread died; its runs have failed with StageLost by then
        self.error: BaseException | None = None  # set when the thread died
        self.busy_since_s: float | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; after a failure with fresh states."""
        assert self._thread is None or not self._thread.is_alive(), "the decoder is already running"
        if self.error is not None:
            # What the cached states hold after a failure of the device, nobody knows.
            self.flow.prompts = PromptCache(self.flow.prompts.limit_bytes)
            self.flow.stream_budget = ByteBudget(self.flow.stream_budget.limit_bytes)
        self._num_failures, self.error = 0, None
        self._thread = threading.Thread(target=self._main, name="acoustic", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until the thread has ended."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Stop the thread; runs that are still open fail."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self.join()

    @property
    def is_alive(self) -> bool:
        """True while the thread serves."""
        return self._thread is not None and self._thread.is_alive() and self.error is None

    @property
    def num_runs(self) -> int:
        """Runs that are open."""
        return len(self._runs)

    def open(self, job: AcousticJob, sink: ChunkSink) -> AcousticRun:
        """Start a run. Raises EngineFailure when the thread is gone."""
        hops = hop_plan_for(
            job,
            self._settings,
            self.costs,
            num_streams=len(self._runs) + 1,
            chunk_tokens=self._chunk_tokens,
            lookahead_tokens=self._lookahead_tokens,
        )
        flow = self.flow.open(job.prompt, steps=job.flow_steps, stream=job.stream)
        vocoder = self.vocoder.open(job.seed)
        with self._condition:
            if self.error is not None or self._closing:
                raise StageLost("The acoustic decoder is not running.")
            key = self._next_key
            self._next_key += 1
            run = AcousticRun(key, job, sink, hops, flow, vocoder, self._condition)
            self._runs[key] = run
        return run

    def has_voice(self, run: AcousticRun) -> bool:
        """True when the flow's states of the run's voice are cached."""
        return run.flow.prompt_key in self.flow.prompts

    def wake(self) -> None:
        """A paused reader has room again."""
        with self._condition:
            self._condition.notify()

    # the thread

    def _main(self) -> None:
        try:
            with torch.inference_mode():
                while True:
                    work = self._wait_for_work()
                    if work is None:
                        break
                    self.busy_since_s = time.monotonic()
                    is_first = any(run.is_unheard for run, _ in work)
                    self._turns.begin(is_first=is_first)
                    try:
                        self._serve(work)
                    finally:
                        self._turns.end(is_first=is_first)
                    self.busy_since_s = None
        except BaseException as error:
            logger.exception("the acoustic decoder's thread died")
            self.error = error
        self.busy_since_s = None
        with self._condition:
            runs, self._runs = list(self._runs.values()), {}
        for run in runs:
            run.close()
            if not run.is_cancelled:
                run.sink.fail(StageLost("The acoustic decoder stopped."))
        if self.error is not None:
            self.on_death()

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
        return choose_hops(self._runs, self.costs, self._settings, time.monotonic())

    def _serve(self, work: Work) -> None:
        """Run the hops together and hand their audio over; a hop that fails ends its own run alone."""
        frames = max(run.frames_of(hop) for run, hop in work)
        start_s = time.monotonic()
        timer = StageTimer(self.flow.net.device)
        mels = self._mels(work)
        timer.mark()
        spoken = self._samples(mels)
        timer.mark()
        # The samples are on the host before the clock is read: a GPU's work is done, not just queued.
        on_host = [samples.float().cpu() for _, _, samples in spoken]
        now_s = time.monotonic()
        if spoken:
            self._num_failures, self._unexpected = 0, None
            audio_s = sum(samples.numel() for samples in on_host) / SAMPLE_RATE_HZ
            flow_s, vocoder_s = timer.seconds()
            self._note_call([(run, hop) for run, hop, _ in spoken], start_s, flow_s, vocoder_s, audio_s)
        else:
            self._count_failure()
        if len(spoken) == len(work):
            self.costs.observe(len(work), frames, now_s - start_s)
        for (run, hop, _), samples in zip(spoken, on_host, strict=True):
            self._emit(run, hop, samples, now_s)

    def _note_call(self, work: Work, start_s: float, flow_s: float, vocoder_s: float, audio_s: float) -> None:
        """Tell whoever counts, and each run its share."""
        for run, hop in work:
            run.flow_s += flow_s / len(work)
            run.vocoder_s += vocoder_s / len(work)
            if run.job.trace is not None:
                middle_s = start_s + flow_s
                run.job.trace.span("flow", "flow", start_s, middle_s, frames=hop.num_frames, batch=len(work))
                run.job.trace.span("vocoder", "vocoder", middle_s, middle_s + vocoder_s, batch=len(work))
        steps = max(run.job.flow_steps for run, _ in work)
        self._events.acoustic_call(AcousticCall(flow_s, vocoder_s, len(work), steps, audio_s))

    def _mels(self, work: Work) -> list[tuple[AcousticRun, Hop, torch.Tensor]]:
        """The mel of each hop that could be computed."""
        hops = [
            FlowHop(
                stream=run.flow,
                tokens=torch.tensor(run.tokens[: hop.visible_tokens], dtype=torch.int64),
                offset_tokens=hop.offset_tokens,
                is_final=hop.is_final,
                full_mask=hop.full_mask,
            )
            for run, hop in work
        ]
        results = _together_or_alone(self.flow.decode, hops)
        return [(run, hop, mel) for (run, hop), mel in self._surviving(work, results)]

    def _samples(
        self, mels: list[tuple[AcousticRun, Hop, torch.Tensor]]
    ) -> list[tuple[AcousticRun, Hop, torch.Tensor]]:
        """The samples of each mel that could be decoded."""
        jobs = [VocoderJob(run.vocoder, self._pieces(run, hop, mel), hop.is_final) for run, hop, mel in mels]
        results = _together_or_alone(self.vocoder.decode, jobs)
        return [(run, hop, samples) for (run, hop), samples in self._surviving([m[:2] for m in mels], results)]

    def _surviving(
        self, work: Work, results: list[torch.Tensor | Exception]
    ) -> Iterator[tuple[tuple[AcousticRun, Hop], torch.Tensor]]:
        """Results of the hops that did not fail; the runs of the others end."""
        for (run, hop), result in zip(work, results, strict=True):
            if isinstance(result, Exception):
                self._blame(run, result)
            else:
                yield (run, hop), result

    def _blame(self, run: AcousticRun, error: Exception) -> None:
        """End a run that failed alone."""
        if not isinstance(error, LightTTSError):
            self._unexpected = error
        self._end(run, error)

    def _count_failure(self) -> None:
        """A call gave nothing. Raises when that has happened too often for the runs to be at fault."""
        error, self._unexpected = self._unexpected, None
        if error is None:
            return
        self._num_failures += 1
        if self._num_failures >= MAX_FAILURES:
            raise error

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
            try:
                run.sink.put(samples.numpy())
            except Exception as error:  # the boundary of one run: its listener's faults are not the others'
                self._end(run, error)
                return
        if hop.is_final:
            self._end(run, None)

    def _end(self, run: AcousticRun, error: Exception | None) -> None:
        with self._condition:
            self._runs.pop(run.key, None)
        run.error = error
        _bury(run)


def _together_or_alone(
    decode: Callable[[list[_Item]], list[torch.Tensor]], items: list[_Item]
) -> list[torch.Tensor | Exception]:
    """Results of one call for all items; when it fails, of one call each, so that only the guilty one has none.

    `decode` must leave everything as it was when it raises.
    """
    if not items:
        return []
    try:
        return list(decode(items))
    except Exception as error:
        if is_device_lost(error):
            raise
        if len(items) == 1:
            return [error]
        logger.warning("a batch of %d hops failed (%s); running them one by one", len(items), error)
    return [result for item in items for result in _together_or_alone(decode, [item])]


def _bury(run: AcousticRun) -> None:
    """Free a run and tell its sink, unless the reader itself went away."""
    run.close()
    if run.is_cancelled:
        return
    try:
        if run.error is None:
            run.sink.end(run.reason or FinishReason.STOP)
        elif isinstance(run.error, LightTTSError):
            run.sink.fail(run.error)
        else:
            logger.error("a stream failed", exc_info=run.error)
            run.sink.fail(EngineFailure("The synthesis failed inside the acoustic model."))
    except Exception:  # the boundary of one run, as above
        logger.exception("a listener of audio failed; its run has ended")


def _nothing() -> None:
    pass
