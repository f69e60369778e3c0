"""A lane: a thread that launches one call of flow and vocoder after the other, on a stream of the device of its own.

Where a device computes for itself, it never waits for the host: when the flow of a call has ended, and the vocoder
still works on it, the next call is chosen and launched, and only then is the audio of the first handed over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TypeVar

import torch

from light_tts.acoustic.call_log import CallLog
from light_tts.acoustic.call_under_way import CallUnderWay
from light_tts.acoustic.chunking import Hop, grid_pieces
from light_tts.acoustic.flow import FlowDecoder, FlowHop
from light_tts.acoustic.isolation import together_or_alone
from light_tts.acoustic.lane_share import LaneShare
from light_tts.acoustic.open_runs import OpenRuns
from light_tts.acoustic.pending_samples import PendingSamples
from light_tts.acoustic.run import AcousticRun, Work
from light_tts.acoustic.stage_timer import StageTimer
from light_tts.acoustic.vocoder import VocoderJob, WaveDecoder
from light_tts.errors import LightTTSError
from light_tts.events import AcousticCall, EngineEvents
from light_tts.gpu_turns import GpuTurns
from light_tts.types import FRAMES_PER_TOKEN

# A call of fewer hops is handed over before the next one is launched: its vocoder ends sooner than that is done.
FEW_HOPS = 4
# So many calls in a row in which every hop failed, also alone, mean that the fault is not in the streams.
MAX_FAILURES = 3
_Result = TypeVar("_Result")
_telling = threading.Lock()  # whoever counts is told by one thread at a time


class Lane:
    """Serves its share of the open runs. `serve` on one thread; what it owns belongs to that.

    flow, vocoder:  of this lane alone; their streams may come from another lane, and go there.
    stream:         of the device; None: the usual one.
    log:            of the calls of all lanes.
    busy_since_s:   when the host began with the call that is under way; None: nothing is.
    """

    def __init__(
        self,
        flow: FlowDecoder,
        vocoder: WaveDecoder,
        runs: OpenRuns,
        share: LaneShare,
        *,
        chunk_tokens: int,
        events: EngineEvents,
        turns: GpuTurns,
        log: CallLog,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        self.flow = flow
        self.vocoder = vocoder
        self.share = share
        self.new_timer: Callable[[], StageTimer] = partial(StageTimer, flow.net.device)
        self.busy_since_s: float | None = None
        self._runs = runs
        self._chunk_tokens = chunk_tokens
        self._events = events
        self._turns = turns
        self._log = log
        self._stream = stream
        self._num_failures = 0
        self._unexpected: Exception | None = None  # of the call that is being launched
        self._last_done_s = 0.0  # when the last call had been computed

    def serve(self) -> None:
        """Launch one call after the other, and hand over the audio of each, until the runs say stop.

        Raises what the device raises when it is lost, and what makes call after call fail.
        """
        self._num_failures = 0
        try:
            with torch.inference_mode(), self._on_stream():
                self._serve()
        finally:
            self.busy_since_s = None

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _serve(self) -> None:
        under_way: CallUnderWay | None = None
        try:
            is_closed = False
            while not is_closed:
                if under_way is not None and (len(self._runs) == 1 or len(under_way.spoken) < FEW_HOPS):
                    self._deliver(under_way)
                    under_way = None
                self.busy_since_s = None if under_way is None else under_way.start_s
                work = self._runs.take(self.share, is_idle=under_way is None)
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
                under_way.end()

    def _launch(self, work: Work) -> CallUnderWay:
        """Begin to compute the hops together; a hop that fails ends its own run alone."""
        frames = max(run.frames_of(hop) for run, hop in work)
        start_s = time.monotonic()
        turn = self._turns.begin(is_first=any(run.is_unheard for run, _ in work))
        entry = self._log.begin()
        try:
            timer = self.new_timer()
            mels = self._mels(work)
            timer.mark()
            spoken = self._samples(mels)
            timer.mark()
        except BaseException:
            turn.end()
            entry.end()
            raise
        if spoken:
            self._num_failures, self._unexpected = 0, None
        else:
            self._count_failure()
        launched_s = due_s = time.monotonic()
        if timer.is_apart:
            due_s += self.share.costs.estimate_s(len(work), frames)
        for run, hop, samples in spoken:
            run.launched(hop, samples.num_samples, launched_s, due_s)
        return CallUnderWay(work, spoken, frames, start_s, timer, turn, entry)

    def _deliver(self, call: CallUnderWay) -> None:
        """Hand over the audio of a call, when it has been computed."""
        try:
            on_host = call.fetch()
        finally:
            call.end()
        # The samples are on the host before the clock is read: a GPU's work is done, not just queued.
        now_s = time.monotonic()
        begin_s, self._last_done_s = max(call.start_s, self._last_done_s), now_s
        if call.spoken:
            self._note_call(call, begin_s, *call.timer.seconds())
        for (run, hop, _), samples in zip(call.spoken, on_host, strict=True):
            self._emit(run, hop, samples, now_s)
        if len(call.spoken) == len(call.work):
            self.share.costs.observe(len(call.work), call.frames, now_s - begin_s)
        self._runs.let_go(call.work, self.share)

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
        with _telling:
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
        self._runs.end(run, error)

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
        if run.is_cancelled or run not in self._runs:  # it may have ended since it was launched
            return
        if samples.numel():
            run.heard(now_s)
            try:
                run.sink.put(samples.numpy())
            except Exception as error:  # the boundary of one run: its listener's faults are not the others'
                self._runs.end(run, error)
                return
        if hop.is_final:
            self._runs.end(run, None)
