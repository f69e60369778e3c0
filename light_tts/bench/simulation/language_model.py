"""Speech tokens on the virtual clock: continuous batching with a cost for each step, nothing else."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from light_tts.acoustic.run import AcousticRun
from light_tts.bench.simulation.machine_costs import LLMCosts
from light_tts.llm.lead_limit import LeadLimit
from light_tts.types import TOKEN_RATE_HZ, FinishReason


@dataclass(eq=False)
class Sequence:
    """One text on its way to speech tokens: `num_tokens` in all, `made` so far, the first of them at `first_s`."""

    run: AcousticRun
    num_tokens: int
    made: int = 0
    first_s: float | None = None

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

    Steps in which nothing happens are taken at once: `remaining_s` is the work until something does. Streams far ahead
    of their listeners rest by the rule that lets real ones rest.
    """

    def __init__(self, costs: LLMCosts, max_running: int, lead_limit: LeadLimit) -> None:
        self.busy_s = 0.0
        self._costs = costs
        self._max_running = max_running
        self._lead_limit = lead_limit
        self._now_s = 0.0  # when somebody last could rest
        self._resting: list[Sequence] = []
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
        steps = min(min(sequence.tokens_to_event(), self._tokens_to_rest(sequence)) for sequence in self._running)
        return self._prefill_s + steps * self._costs.decode_s(len(self._running)) - self._step_done_s

    @property
    def rested_s(self) -> float | None:
        """The moment at which a sequence that rests goes on; None when nobody rests."""
        return min((self._goes_on_s(sequence) for sequence in self._resting), default=None)

    def add(self, sequence: Sequence) -> None:
        """A new text."""
        self._waiting.append(sequence)
        self._admit()

    def rest(self, now_s: float) -> None:
        """Let those rest that are far ahead, and those go on that have rested enough."""
        self._now_s = now_s
        is_alone = len(self._running) + len(self._waiting) + len(self._resting) <= 1
        for sequence in [] if is_alone else list(self._running):
            is_ahead = self._lead_limit.is_exceeded(sequence.made, sequence.first_s, now_s)
            if sequence.run.job.stream and is_ahead:
                self._running.remove(sequence)
                self._resting.append(sequence)
        rested_s = self.rested_s
        if rested_s is not None and (is_alone or rested_s <= now_s):
            self._waiting.extendleft(reversed(self._resting))
            self._resting = []
        self._admit()

    def work(self, seconds: float, now_s: float) -> None:
        """So much work was done until now; never more than `remaining_s`."""
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
            sequence.first_s = now_s if sequence.first_s is None else sequence.first_s
            sequence.run.put([0] * count)
            if sequence.made == sequence.num_tokens:
                sequence.run.end(FinishReason.STOP)
                ended.append(sequence)
        if ended:
            self._running = [sequence for sequence in self._running if sequence not in ended]
            self._admit()

    def _goes_on_s(self, sequence: Sequence) -> float:
        return self._lead_limit.goes_on_at(sequence.made, sequence.first_s)

    def _tokens_to_rest(self, sequence: Sequence) -> int:
        """Tokens after which it may rest, and at least one."""
        if not self._lead_limit.max_lead_s or not sequence.run.job.stream:
            return sequence.num_tokens
        # When what it has made will have been heard; nothing of it before there is something.
        heard_s = self._now_s if sequence.first_s is None else sequence.first_s + sequence.made / TOKEN_RATE_HZ
        left_s = self._lead_limit.max_lead_s - (heard_s - self._now_s)
        return max(1, math.ceil(left_s * TOKEN_RATE_HZ) + 1)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_running:
            self._running.append(self._waiting.popleft())
            if not self._running[-1].made:
                self._prefill_s += self._costs.prefill_s
