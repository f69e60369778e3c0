"""A step of which one run cannot be computed: the others go on, and only the guilty one ends."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from light_tts.llm.model_runner import ModelRunner, SampledToken
from light_tts.llm.scheduler import Chunk
from light_tts.llm.sequence import Sequence
from light_tts.models.device_errors import is_device_lost

logger = logging.getLogger(__name__)

# So many steps in a row in which nothing could be computed mean that the fault is not in the runs.
MAX_FAILED_STEPS = 3


@dataclass
class StepOutcome:
    """What became of the chunks of a step."""

    computed: list[Chunk] = field(default_factory=list)
    tokens: list[SampledToken] = field(default_factory=list)
    failed: list[tuple[Sequence, Exception]] = field(default_factory=list)
    seconds: float = 0.0


class IsolatingRunner:
    """Runs steps; used by the engine's thread alone."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._num_failed_steps = 0

    def run(self, chunks: list[Chunk]) -> StepOutcome:
        """Compute the chunks together, or one by one when that fails; notes each run's share of the time.

        Raises when the device is lost, and when several steps in a row failed whole.
        """
        started_s = time.perf_counter()
        try:
            outcome = StepOutcome(chunks, self._runner.run(chunks))
        except Exception as error:
            if is_device_lost(error):
                raise
            logger.warning("a step of %d runs failed (%s); computing them one by one", len(chunks), error)
            outcome = self._run_apart(chunks)
        self._num_failed_steps = 0 if outcome.computed else self._num_failed_steps + 1
        if self._num_failed_steps >= MAX_FAILED_STEPS:
            raise outcome.failed[-1][1]
        outcome.seconds = time.perf_counter() - started_s
        for chunk in outcome.computed:
            chunk.sequence.busy_s += outcome.seconds / len(outcome.computed)
        return outcome

    def reset(self) -> None:
        """Forget failures: the engine starts anew."""
        self._num_failed_steps = 0

    def _run_apart(self, chunks: list[Chunk]) -> StepOutcome:
        """Rows may be computed twice: they land in the same places, and sampling does not remember."""
        outcome = StepOutcome()
        for chunk in chunks:
            try:
                outcome.tokens.extend(self._runner.run([chunk]))
                outcome.computed.append(chunk)
            except Exception as error:
                if is_device_lost(error):
                    raise
                outcome.failed.append((chunk.sequence, error))
        return outcome
