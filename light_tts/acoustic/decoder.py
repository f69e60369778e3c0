"""Speech tokens to audio for many streams: a thread that runs the hops the planner chose.

Tokens of a run arrive on the language model's thread, its audio leaves on this thread through a `ChunkSink`. Everything
else of a run is owned by the decoder's thread alone. Knows nothing of text or HTTP.

Where a device computes for itself, it never waits for the host: when the flow of a call has ended, and the vocoder
still works on it, the next call is chosen and launched, and only then is the audio of the first handed over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import torch

from light_tts.acoustic.call_under_way import CallUnderWay
from light_tts.acoustic.choice import choose_hops, hop_plan_for
from light_tts.acoustic.chunking import Hop, grid_pieces
from light_tts.acoustic.flow import FlowDecoder, FlowHop
from light_tts.acoustic.flow_cache import ByteBudget, PromptCache
from light_tts.acoustic.isolation import together_or_alone
from light_tts.acoustic.pending_samples import PendingSamples
from light_tts.acoustic.run import AcousticJob, AcousticRun, ChunkSink
from light_tts.acoustic.stage_costs import CostTable
from light_tts.acoustic.stage_timer import StageTimer
from light_tts.acoustic.vocoder import VocoderJob, WaveDecoder
from light_tts.errors import EngineFailure, LightTTSError, StageLost
from light_tts.events import NO_EVENTS, AcousticCall, EngineEvents
from light_tts.gpu_turns import NO_TURNS, GpuTurns
from light_tts.settings import AcousticSettings
from light_tts.types import FRAMES_PER_TOKEN, FinishReason

logger = logging.getLogger(__name__)

Work = list[tuple[AcousticRun, Hop]]

# A call of fewer hops is handed over before the next one is launched: its vocoder ends sooner than that is done.
FEW_HOPS = 4
# So many calls in a row in which every hop failed, also alone, mean that the fault is not in the streams.
MAX_FAILURES = 3
_Result = TypeVar("_Result")


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
        self._unexpected: Exception | None = None  # of the call that is being launched
        self._last_done_s = 0.0  # when the last call had been computed
        self.new_timer: Callable[[], StageTimer] = partial(StageTimer, flow.net.device)
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
                self._serve()
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

    def _serve(self) -> None:
        """Launch one call after the other, and hand over the audio of each, until the decoder is closed."""
        under_way: CallUnderWay | None = None
        try:
            is_closed = False
            while not is_closed:
                if under_way is not None and (len(self._runs) == 1 or len(under_way.spoken) < FEW_HOPS):
                    self._deliver(under_way)
                    under_way = None
                self.busy_since_s = None if under_way is None else under_way.start_s
                work = self._wait_for_work(is_idle=under_way is None)
                is_closed = work is None
                if work and under_way is None:
                    self.busy_since_s = time.monotonic()
                before, under_way = under_way, self._launch(work) if work else None
                if before is not None:
                    self._deliver(before)
                if under_way is not None and under_way.is_on_device:
                    # The next call is not chosen earlier: whoever comes until then can still be in it.
                    under_way.wait_for_flow()
                elif under_way is not None:
                    self._deliver(under_way)
                    under_way = None
        finally:
            if under_way is not None:
                under_way.turn.end()

    def _wait_for_work(self, *, is_idle: bool) -> Work | None:
        """The planner's choice, or None to stop. Ends dead runs on the way.

        is_idle: block until hops can run; otherwise there may be none.
        """
        while True:
            with self._condition:
                if self._closing:
                    return None
                dead = [run for run in self._runs.values() if run.is_cancelled or run.error is not None]
                for run in dead:
                    del self._runs[run.key]
                if not dead:
                    work, recheck_s = self._choose(is_idle)
                    if work or not is_idle:
                        return work
                    self._condition.wait(recheck_s)
            for run in dead:
                _bury(run)

    def _choose(self, is_idle: bool) -> tuple[Work, float | None]:
        """The planner's choice among the hops that can run, and when to look again."""
        return choose_hops(self._runs, self.costs, self._settings, time.monotonic(), is_idle=is_idle)

    def _launch(self, work: Work) -> CallUnderWay:
        """Begin to compute the hops together; a hop that fails ends its own run alone."""
        frames = max(run.frames_of(hop) for run, hop in work)
        start_s = time.monotonic()
        turn = self._turns.begin(is_first=any(run.is_unheard for run, _ in work))
        try:
            timer = self.new_timer()
            mels = self._mels(work)
            timer.mark()
            spoken = self._samples(mels)
            timer.mark()
        except BaseException:
            turn.end()
            raise
        if spoken:
            self._num_failures, self._unexpected = 0, None
        else:
            self._count_failure()
        launched_s = due_s = time.monotonic()
        if timer.is_apart:
            due_s += self.costs.estimate_s(len(work), frames)
        for run, hop, samples in spoken:
            run.launched(hop, samples.num_samples, launched_s, due_s)
        return CallUnderWay(spoken, len(work), frames, start_s, timer, turn)

    def _deliver(self, call: CallUnderWay) -> None:
        """Hand over the audio of a call, when it has been computed."""
        try:
            on_host = call.fetch()
        finally:
            call.turn.end()
        # The samples are on the host before the clock is read: a GPU's work is done, not just queued.
        now_s = time.monotonic()
        if not call.spoken:
            return
        begin_s, self._last_done_s = max(call.start_s, self._last_done_s), now_s
        self._note_call(call, begin_s, *call.timer.seconds())
        for (run, hop, _), samples in zip(call.spoken, on_host, strict=True):
            self._emit(run, hop, samples, now_s)
        if len(call.spoken) == call.num_hops:
            self.costs.observe(call.num_hops, call.frames, now_s - begin_s)

    def _note_call(self, call: CallUnderWay, begin_s: float, flow_s: float, vocoder_s: float) -> None:
        """Tell whoever counts, and each run its share."""
        num_hops = len(call.spoken)
        for run, hop, _ in call.spoken:
            run.flow_s += flow_s / num_hops
            run.vocoder_s += vocoder_s / num_hops
            if run.job.trace is not None:
                middle_s = begin_s + flow_s
                run.job.trace.span("flow", "flow", begin_s, middle_s, frames=hop.num_frames, batch=num_hops)
                run.job.trace.span("vocoder", "vocoder", middle_s, middle_s + vocoder_s, batch=num_hops)
        steps = max(run.job.flow_steps for run, _, _ in call.spoken)
        self._events.acoustic_call(AcousticCall(flow_s, vocoder_s, num_hops, steps, call.audio_s))

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
        results = together_or_alone(self.flow.decode, hops)
        return [(run, hop, mel) for (run, hop), mel in self._surviving(work, results)]

    def _samples(
        self, mels: list[tuple[AcousticRun, Hop, torch.Tensor]]
    ) -> list[tuple[AcousticRun, Hop, PendingSamples]]:
        """The samples of each mel that could be decoded."""
        jobs = [VocoderJob(run.vocoder, self._pieces(run, hop, mel), hop.is_final) for run, hop, mel in mels]
        results = together_or_alone(self.vocoder.launch, jobs)
        return [(run, hop, samples) for (run, hop), samples in self._surviving([m[:2] for m in mels], results)]

    def _surviving(
        self, work: Work, results: list[_Result | Exception]
    ) -> Iterator[tuple[tuple[AcousticRun, Hop], _Result]]:
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
        if run.is_cancelled or run.key not in self._runs:  # it may have ended since it was launched
            return
        if samples.numel():
            run.heard(now_s)
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
