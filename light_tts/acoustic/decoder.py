"""Speech tokens to audio for many streams: lanes, each a thread, that run the hops the planner chose.

Tokens of a run arrive on the language model's thread, its audio leaves on a lane's thread through a `ChunkSink`.
Everything else of a run is owned by the lane that holds it. Knows nothing of text or HTTP.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from light_tts.acoustic.call_log import CallLog
from light_tts.acoustic.choice import hop_plan_for
from light_tts.acoustic.express import Express
from light_tts.acoustic.flow import FlowDecoder
from light_tts.acoustic.flow_cache import ByteBudget, PromptCache
from light_tts.acoustic.lane import Lane
from light_tts.acoustic.lane_share import ExpressShare, LaneShare, MainShare
from light_tts.acoustic.open_runs import OpenRuns
from light_tts.acoustic.run import AcousticJob, AcousticRun, ChunkSink
from light_tts.acoustic.stage_costs import CostTable
from light_tts.acoustic.vocoder import WaveDecoder
from light_tts.events import NO_EVENTS, EngineEvents
from light_tts.gpu_turns import NO_TURNS, GpuTurns
from light_tts.settings import AcousticSettings

logger = logging.getLogger(__name__)


class AcousticDecoder:
    """Flow and vocoder behind threads. `open` a run, feed it tokens, take audio from its sink.

    express:  None: one lane serves everybody.
    """

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
        express: Express | None = None,
    ) -> None:
        self._runs = OpenRuns(settings.express_streams if express is not None else 0)
        self._settings = settings
        self._chunk_tokens = chunk_tokens
        self._lookahead_tokens = lookahead_tokens
        self.on_death: Callable[[], None] = _nothing  # a thread died; all runs have failed with StageLost by then
        make_lane = partial(Lane, runs=self._runs, chunk_tokens=chunk_tokens, events=events, turns=turns)
        if express is None:
            self.main = make_lane(flow, vocoder, share=LaneShare(settings), log=CallLog())
            self.lanes = [self.main]
        else:
            share = MainShare(settings, flow)
            self.main = make_lane(flow, vocoder, share=share, log=express.log)
            beside = ExpressShare(settings, share)
            self.lanes = [
                self.main,
                make_lane(express.flow, express.vocoder, share=beside, log=express.log, stream=express.stream),
            ]
        self._threads: list[threading.Thread] = []
        self._num_serving = 0

    @property
    def flow(self) -> FlowDecoder:
        """Of the main lane: opens streams, has the caches."""
        return self.main.flow

    @property
    def vocoder(self) -> WaveDecoder:
        """Of the main lane."""
        return self.main.vocoder

    @property
    def costs(self) -> CostTable:
        """Of the main lane's calls."""
        return self.main.share.costs

    @property
    def error(self) -> BaseException | None:
        """Why a thread died; None while none has."""
        return self._runs.error

    @property
    def busy_since_s(self) -> float | None:
        """When the oldest call began that is under way; None: there is none."""
        return min((lane.busy_since_s for lane in self.lanes if lane.busy_since_s is not None), default=None)

    def start(self) -> None:
        """Start the threads; after a failure with fresh states."""
        assert not any(thread.is_alive() for thread in self._threads), "the decoder is already running"
        if self.error is not None:
            prompts = PromptCache(self.flow.prompts.limit_bytes)
            budget = ByteBudget(self.flow.stream_budget.limit_bytes)
            for lane in self.lanes:
                lane.flow.forget(prompts, budget)
        self._runs.error = None
        self._num_serving = len(self.lanes)
        self._threads = [
            threading.Thread(target=self._main, args=(lane,), name="acoustic" if lane is self.main else "express")
            for lane in self.lanes
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def join(self) -> None:
        """Wait until the threads have ended."""
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """Stop the threads; runs that are still open fail."""
        self._runs.stop()
        self.join()

    @property
    def is_alive(self) -> bool:
        """True while all threads serve."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads) and self.error is None

    @property
    def num_runs(self) -> int:
        """Runs that are open."""
        return len(self._runs)

    def open(self, job: AcousticJob, sink: ChunkSink) -> AcousticRun:
        """Start a run. Raises StageLost when a thread is gone."""
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
        run = AcousticRun(self._runs.next_key(), job, sink, hops, flow, vocoder, self._runs)
        self._runs.add(run)
        return run

    def has_voice(self, run: AcousticRun) -> bool:
        """True when the flow's states of the run's voice are cached."""
        return run.flow.prompt_key in self.flow.prompts

    def wake(self) -> None:
        """A paused reader has room again."""
        self._runs.wake()

    def _main(self, lane: Lane) -> None:
        """A lane's thread; the last one to end clears up."""
        try:
            lane.serve()
        except BaseException as error:
            logger.exception("the acoustic decoder's thread died")
            self._runs.stop(error)
        with self._runs:
            self._num_serving -= 1
            is_last = not self._num_serving
        if not is_last:
            return
        self._runs.fail_all()
        if self.error is not None:
            self.on_death()


def _nothing() -> None:
    pass
