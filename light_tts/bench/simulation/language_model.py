"""Speech tokens on the virtual clock: continuous batching with a cost for each step, nothing else."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from light_tts.acoustic.run import AcousticRun
from light_tts.bench.simulation.machine_costs import LLMCosts
from light_tts.types import FinishReason


@dataclass(eq=False)
class Sequence:
    """One text on its way to speech tokens: `num_tokens` in all, `made` so far."""

    run: AcousticRun
    num_tokens: int
    made: int = 0

    def tokens_to_event(self) -> int:
        """Tokens until it ends or its run can do something new."""
        left = self.num_tokens - self.made
        needed = self.run.plan.tokens_needed
        if needed is None or not self.run.job.stream:
            return left
        while needed <= self.made:
            needed += self.run.plan.chunk_tokens
        return min(left, needed - self.made)


class SimulatedLLM:
    """Decodes all running sequences together; newcomers are prefilled before the next step.

    Steps in which nothing happens are taken at once: `remaining_s` is the work until something does.
    """

    def __init__(self, costs: LLMCosts, max_running: int) -> None:
        self.busy_s = 0.0
        self._costs = costs
        self._max_running = max_running
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._prefill_s = 0.0  # prefill still to be done before the next step
        self._step_done_s = 0.0  # work already done of the step under way

    @property
    def is_busy(self) -> bool:
        """Something is decoding."""
        return bool(self._running)

    @property
    def remaining_s(self) -> float:
        """Work until a run can do something new."""
        steps = min(sequence.tokens_to_event() for sequence in self._running)
        return self._prefill_s + steps * self._costs.decode_s(len(self._running)) - self._step_done_s

    def add(self, sequence: Sequence) -> None:
        """A new text."""
        self._waiting.append(sequence)
        self._admit()

    def work(self, seconds: float) -> None:
        """So much work was done; never more than `remaining_s`."""
        if not self._running:
            return
        self.busy_s += seconds
        prefill_s = min(seconds, self._prefill_s)
        self._prefill_s -= prefill_s
        step_s = self._costs.decode_s(len(self._running))
        self._step_done_s += seconds - prefill_s
        steps = int(self._step_done_s / step_s + 1e-9)
        if not steps:
            return
        self._step_done_s = max(0.0, self._step_done_s - steps * step_s)
        ended = []
        for sequence in self._running:
            count = min(steps, sequence.num_tokens - sequence.made)
            sequence.made += count
            sequence.run.put([0] * count)
            if sequence.made == sequence.num_tokens:
                sequence.run.end(FinishReason.STOP)
                ended.append(sequence)
        if ended:
            self._running = [sequence for sequence in self._running if sequence not in ended]
            self._admit()

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_running:
            self._running.append(self._waiting.popleft())
            self._prefill_s += self._costs.prefill_s
