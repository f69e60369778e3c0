"""A step of which one run cannot be computed: the others go on, and only the guilty one ends."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from light_tts.llm.decoding_group import NO_AHEAD_ROWS
from light_tts.llm.model_runner import ModelRunner
from light_tts.llm.pending import PendingDraws
from light_tts.llm.scheduler import Chunk, StepPlan
from light_tts.llm.sequence import Sequence
from light_tts.models.device_errors import is_device_lost

logger = logging.getLogger(__name__)

# So many steps in a row in which nothing could be computed mean that the fault is not in the runs.
MAX_FAILED_STEPS = 3


@dataclass
class StepInProgress:
    """What has become of a step so far.

    begun:   what is computed, or will be before anything launched later.
    draws:   ids on their way.
    failed:  runs that cannot be computed.
    """

    started_s: float
    begun: StepPlan
    draws: list[PendingDraws] = field(default_factory=list)
    failed: list[tuple[Sequence, Exception]] = field(default_factory=list)


class IsolatingRunner:
    """Runs steps; used by the engine's thread alone."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._num_failed_steps = 0
        self._last_end_s = 0.0

    def launch(self, plan: StepPlan) -> StepInProgress:
        """Begin to compute a step, or its chunks one by one when that fails.

        Raises when the device is lost, and when several steps in a row failed whole.
        """
        started_s = time.perf_counter()
        try:
            return self._begun(StepInProgress(started_s, plan, self._runner.launch(plan)))
        except Exception as error:
            if is_device_lost(error):
                raise
            logger.warning("a step of %d runs failed (%s); computing them one by one", plan.num_sequences, error)
        return self._begun(self._launch_apart(plan.chunks, started_s))

    def _begun(self, step: StepInProgress) -> StepInProgress:
        self._num_failed_steps = self._num_failed_steps + 1 if step.begun.is_empty else 0
        if self._num_failed_steps >= MAX_FAILED_STEPS and step.failed:
            raise step.failed[-1][1]
        return step

    def finish(self, step: StepInProgress) -> tuple[list[list[int]], float]:
        """Wait for a step: the ids of its draws, and its seconds, of which each run is noted its share."""
        tokens = [draws.wait() for draws in step.draws]
        # A step launched while another was computed begins when that ends.
        end_s = time.perf_counter()
        seconds = end_s - max(step.started_s, self._last_end_s)
        self._last_end_s = end_s
        share_s = seconds / max(1, step.begun.num_sequences)
        for sequence in step.begun.ahead.sequences:
            sequence.busy_s += share_s
        for chunk in step.begun.chunks:
            chunk.sequence.busy_s += share_s
        return tokens, seconds

    def _launch_apart(self, chunks: list[Chunk], started_s: float) -> StepInProgress:
        """Rows may be computed twice: they land in the same places, and sampling does not remember.

        Where a code is still on its way, the row is left to a later step: what it would be read from is overwritten.
        """
        step = StepInProgress(started_s, StepPlan(NO_AHEAD_ROWS, []))
        for chunk in chunks:
            if chunk.is_ahead:
                continue
            try:
                draws = self._runner.launch(StepPlan(NO_AHEAD_ROWS, [chunk]))
                step.draws += [pending.known() for pending in draws]
                step.begun.chunks.append(chunk)
            except Exception as error:
                if is_device_lost(error):
                    raise
                step.failed.append((chunk.sequence, error))
        return step
