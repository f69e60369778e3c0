"""One step after the other: *schedule, launch, hand over*.

Where steps are recorded, the next one is launched before the ids of the last are handed over, so that the device never
waits for the host: a run goes on as if its id were a code, and what was computed for one that is none is dropped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from light_tts.errors import EngineFailure
from light_tts.events import EngineEvents, LLMStep
from light_tts.llm import listeners
from light_tts.llm.isolation import IsolatingRunner, StepInProgress
from light_tts.llm.lead_limit import LeadLimit
from light_tts.llm.model_runner import ModelRunner
from light_tts.llm.sampler import INVALID_TOKEN
from light_tts.llm.scheduler import Chunk, Scheduler
from light_tts.llm.sequence import Sequence, SequenceState
from light_tts.types import FinishReason

logger = logging.getLogger(__name__)

End = Callable[[Sequence, FinishReason | Exception], None]


class StepCycle:
    """The engine's thread owns it, and the sequences of its scheduler.

    end:  called when a run has ended; frees what it holds.

    num_steps, num_codes:  counted since the start.
    """

    def __init__(
        self, scheduler: Scheduler, runner: ModelRunner, *, lead_limit: LeadLimit, events: EngineEvents, end: End
    ) -> None:
        self.num_steps = self.num_codes = 0
        self.events = events
        self._scheduler, self._runner = scheduler, runner
        self._isolation = IsolatingRunner(runner)
        self._lead_limit = lead_limit
        self._end = end
        self._in_progress: StepInProgress | None = None

    def step(self) -> bool:
        """Launch a step, and hand over the last one or, where that must be, this one. False: there was nothing."""
        before, self._in_progress = self._in_progress, None
        self._keep_to_the_lead()
        chunks = self._scheduler.schedule()
        launched = self._launch(chunks) if chunks else None
        if before is not None:
            self._finish(before)
        if launched is not None and self._runner.is_ahead:
            self._in_progress = launched
        elif launched is not None:
            self._finish(launched)
        return launched is not None or before is not None

    def rested_s(self) -> float | None:
        """The moment at which a run that rests goes on; None when nobody rests."""
        return min((run.goes_on_at(self._lead_limit) for run in self._scheduler.resting), default=None)

    def _keep_to_the_lead(self) -> None:
        """Let runs rest that are far ahead of their listeners while there are others, and let them go on in time."""
        if not self._lead_limit.max_lead_s:
            return
        scheduler, now_s = self._scheduler, time.monotonic()
        is_alone = len(scheduler.running) + len(scheduler.waiting) + len(scheduler.resting) <= 1
        for run in [] if is_alone else list(scheduler.running):
            if run.may_rest(self._lead_limit, now_s):
                scheduler.rest(run)
        rested_s = self.rested_s()
        if rested_s is not None and (is_alone or rested_s <= now_s):
            # All of them: a step of many costs hardly more than one of few.
            for run in list(scheduler.resting):
                scheduler.go_on(run)

    def _launch(self, chunks: list[Chunk]) -> StepInProgress:
        step = self._isolation.launch(chunks)
        self._scheduler.commit(step.begun)
        for run, error in step.failed:
            logger.error("a run of the language model failed alone and ends", exc_info=error)
            self._discard(run)
            self._end(run, failure(EngineFailure, error))
        return step

    def _finish(self, step: StepInProgress) -> None:
        tokens, seconds = self._isolation.finish(step)
        self._hand_over(tokens)
        for chunk in step.begun:
            if not chunk.sequence.num_drawing:
                self._scheduler.settle(chunk.sequence)
        self.num_steps += 1
        self.events.llm_step(LLMStep(seconds, len(step.begun), step.num_rows))

    def _hand_over(self, tokens: list[tuple[Chunk, int]]) -> None:
        finished = SequenceState.FINISHED
        for (run, start, _, _, is_ahead), token in tokens:
            if not run.arrive(start, is_ahead) or run.state is finished:
                continue
            if token == INVALID_TOKEN:
                self._discard(run)
                self._end(run, EngineFailure("The language model produced values that are not numbers."))
                continue
            layout = run.layout
            num_rows = len(layout.rows)
            code = layout.accept(token)
            if code is None:
                run.take_back(num_rows)
            else:
                if run.first_code_s is None:
                    run.first_code_s = time.monotonic()
                self.num_codes += 1
                if run.silence.keeps(code) and not listeners.put(run, code):
                    self._end(run, EngineFailure("The listener of a run's speech tokens failed."))
                    continue
            if layout.finish_reason is not None:
                self._end(run, layout.finish_reason)

    def _discard(self, run: Sequence) -> None:
        """Let nothing that is not finite stay in the pages of a run."""
        self._scheduler.blocks.forget(run.blocks)
        own = [block for block in run.blocks if not self._scheduler.blocks.is_shared(block)]
        if own:
            self._runner.scrub(own)


def failure(kind: type[EngineFailure], error: Exception) -> EngineFailure:
    """What a run or all of them fail with when something broke."""
    result = kind(f"The language model failed ({type(error).__name__}: {error}).")
    result.__cause__ = error
    return result
