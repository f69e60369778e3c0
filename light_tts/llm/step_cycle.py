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
from light_tts.llm.pending import PendingDraws
from light_tts.llm.sampler import INVALID_TOKEN
from light_tts.llm.scheduler import Scheduler, StepPlan
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
        self._scheduler, self._runner, self._ids = scheduler, runner, runner.lm.ids
        self._isolation = IsolatingRunner(runner)
        self._lead_limit = lead_limit
        self._end = end
        self._in_progress: StepInProgress | None = None

    def step(self) -> bool:
        """Launch a step, and hand over the last one or, where that must be, this one. False: there was nothing."""
        before, self._in_progress = self._in_progress, None
        self._keep_to_the_lead()
        plan = self._scheduler.schedule()
        launched = None if plan.is_empty else self._launch(plan)
        if before is not None:
            self._finish(before)
        if launched is not None and self._runner.is_ahead:
            self._in_progress = launched
        elif launched is not None:
            self._finish(launched)
        return launched is not None or before is not None

    def settle(self) -> None:
        """Hand over what has been launched, and launch nothing."""
        before, self._in_progress = self._in_progress, None
        if before is not None:
            self._finish(before)

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

    def _launch(self, plan: StepPlan) -> StepInProgress:
        step = self._isolation.launch(plan)
        self._scheduler.commit(step.begun)
        for run, error in step.failed:
            logger.error("a run of the language model failed alone and ends", exc_info=error)
            self._discard(run)
            self._end(run, failure(EngineFailure, error))
        return step

    def _finish(self, step: StepInProgress) -> None:
        tokens, seconds = self._isolation.finish(step)
        for draws, ids in zip(step.draws, tokens, strict=True):
            self._hand_over(draws, ids)
        for chunk in step.begun.chunks:
            if not chunk.sequence.num_drawing:
                self._scheduler.settle(chunk.sequence)
        self.num_steps += 1
        self.events.llm_step(LLMStep(seconds, step.begun.num_sequences, step.begun.num_rows))

    def _hand_over(self, draws: PendingDraws, tokens: list[int]) -> None:
        num_ahead = len(draws.ahead.sequences)
        if num_ahead:
            self._take_sure_codes(draws.ahead.sequences, tokens[:num_ahead])
        for chunk, token in zip(draws.chunks, tokens[num_ahead:], strict=True):
            run = chunk.sequence
            if run.arrive(chunk.start, chunk.is_ahead) and not run.is_finished:
                self._take(run, token)
        # Those that have joined the others meanwhile, of whom only news is looked at.
        joined = tuple(chunk.sequence for chunk in draws.chunks if chunk.sequence.is_grouped)
        if joined:
            self._runner.note_codes(joined, [run.layout.history[-1] for run in joined])

    def _take_sure_codes(self, runs: tuple[Sequence, ...], tokens: list[int]) -> None:
        """Samples of the runs that decode together: codes after which they go on, but for few."""
        odd = self._odd_ones(runs, tokens)
        going_on, codes = runs, tokens
        if odd:
            kept, codes = list(runs), list(tokens)
            for index in reversed(odd):
                del kept[index], codes[index]
            going_on = tuple(kept)
        for run, code in zip(going_on, codes, strict=True):
            run.num_drawing -= 1
            run.layout.history.append(code)  # as `Layout.accept` does
        self.num_codes += len(codes)
        self._runner.note_codes(going_on, codes)
        for run in listeners.put_each(going_on, codes):
            self._end(run, EngineFailure("The listener of a run's speech tokens failed."))
        for index in odd:
            run = runs[index]
            run.num_drawing -= 1
            if not run.is_finished:
                self._take(run, tokens[index])

    def _odd_ones(self, runs: tuple[Sequence, ...], tokens: list[int]) -> list[int]:
        """Places of samples that are no codes, and of those whose runs have ended; ascending."""
        num_codes, finished = self._ids.num_codes, SequenceState.FINISHED
        odd: set[int] = set()
        if min(tokens) < 0 or max(tokens) >= num_codes:
            odd.update(index for index, token in enumerate(tokens) if not 0 <= token < num_codes)
        if runs is not self._scheduler.together:
            odd.update([index for index, run in enumerate(runs) if run.state is finished])
        return sorted(odd)

    def _take(self, run: Sequence, token: int) -> None:
        """A sample of a run, whatever it is and means."""
        if token == INVALID_TOKEN:
            self._discard(run)
            self._end(run, EngineFailure("The language model produced values that are not numbers."))
            return
        layout = run.layout
        num_rows = layout.num_rows
        code = layout.accept(token)
        if code is None:
            run.take_back(num_rows)
        else:
            if run.first_code_s is None:
                run.first_code_s = time.monotonic()
            self.num_codes += 1
            if listeners.put_each([run], [code]):
                self._end(run, EngineFailure("The listener of a run's speech tokens failed."))
                return
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
