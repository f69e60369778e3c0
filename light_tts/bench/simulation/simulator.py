"""Serves invented listeners on a virtual clock, with the planner and the hop plans that serve real ones.

No model runs and nothing sleeps: a call takes what the table says. Not in the picture: the web, text and voice
preparation, host time between calls, prompts that are not cached yet.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from light_tts.acoustic.choice import choose_hops, hop_plan_for
from light_tts.acoustic.planner import WITHHELD_FRAMES
from light_tts.acoustic.run import AcousticJob, AcousticRun, Work
from light_tts.acoustic.stage_costs import CostTable
from light_tts.acoustic.warm_up import CALLS
from light_tts.bench.simulation.language_model import Sequence, SimulatedLLM
from light_tts.bench.simulation.listeners import Answer, Load
from light_tts.bench.simulation.machine_costs import MachineCosts
from light_tts.errors import LightTTSError
from light_tts.llm.lead_limit import LeadLimit
from light_tts.settings import AcousticSettings
from light_tts.types import FRAMES_PER_TOKEN, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, FinishReason

CHUNK_TOKENS, LOOKAHEAD_TOKENS = 25, 3
PROMPT_CHUNKS = 4  # of the voice; its states are cached
_LATE_S = 60.0  # listeners who are so far behind make no better picture when they are served to the end


@dataclass
class Outcome:
    """What a simulated load came to. `call_rows` are the rows of each call, `call_frames` their frames in all."""

    answers: list[Answer]
    end_s: float
    acoustic_busy_s: float
    llm_busy_s: float
    call_rows: list[int] = field(default_factory=list)
    call_frames: list[int] = field(default_factory=list)


class Simulation:
    """One load on one machine. `run` once."""

    def __init__(
        self,
        load: Load,
        machine: MachineCosts,
        settings: AcousticSettings,
        *,
        max_running: int,
        max_lead_s: float = 0.0,
        llm_share: float = 0.5,
        give_up: bool = False,
    ) -> None:
        """Make a simulation.

        max_running:  sequences that the language model decodes together.
        max_lead_s:   that streams may be ahead of their listeners; 0: no limit.
        llm_share:    part of a shared processor that the language model gets while an acoustic call runs too.
        give_up:      stop as soon as somebody's player has run dry; for a search.
        """
        self._llm_share = llm_share
        self._load, self._machine, self._settings = load, machine, settings
        self._give_up = give_up
        # The planner knows what a real one knows after warm-up, and learns from every call.
        self._costs = CostTable(
            (rows, 2 * tokens, machine.acoustic.call_s([2 * tokens] * rows))
            for rows, tokens in CALLS
            if rows <= settings.max_batch
        )
        self._llm = SimulatedLLM(machine.llm, max_running, LeadLimit(max_lead_s))
        self._runs: dict[int, AcousticRun] = {}
        self._answers: dict[int, Answer] = {}
        self._lengths = load.lengths()
        self._arrivals: list[float] = []
        self._now_s = 0.0
        self._call: Work = []
        self._call_frames: list[int] = []
        self._call_s = self._call_left_s = 0.0
        self._recheck_s: float | None = None
        self._outcome = Outcome([], 0.0, 0.0, 0.0)

    def run(self) -> Outcome:
        """Serve everybody who comes."""
        self._coming: Iterator[float] = self._load.first_arrivals()
        self._expect_next()
        while self._arrivals or self._runs:
            while self._arrivals and self._arrivals[0] <= self._now_s:
                heapq.heappop(self._arrivals)
                self._ask()
                self._expect_next()
            if not self._call:
                self._start_call()
            if not self._advance():
                break
        self._outcome.end_s = self._now_s
        self._outcome.llm_busy_s = self._llm.busy_s
        self._outcome.answers = list(self._answers.values())
        return self._outcome

    def _expect_next(self) -> None:
        due_s = next(self._coming, None)
        if due_s is not None:
            heapq.heappush(self._arrivals, due_s)

    def _ask(self) -> None:
        """A listener comes."""
        key = len(self._answers)
        answer = self._answers[key] = Answer(self._now_s, next(self._lengths))
        prompt_tokens = CHUNK_TOKENS * (PROMPT_CHUNKS + 1) - self._settings.first_hop % CHUNK_TOKENS
        prompt = cast("Any", SimpleNamespace(tokens=np.zeros(prompt_tokens, np.int64)))
        job = AcousticJob(prompt, seed=0, flow_steps=self._settings.flow_steps, stream=self._load.stream)
        hops = hop_plan_for(
            job,
            self._settings,
            self._costs,
            num_streams=len(self._runs) + 1,
            chunk_tokens=CHUNK_TOKENS,
            lookahead_tokens=LOOKAHEAD_TOKENS,
        )
        # All states of finished chunks are kept, as they are while memory lasts.
        flow = cast("Any", SimpleNamespace(kept_tokens=10**9, close=lambda: None))
        vocoder = cast("Any", SimpleNamespace(close=lambda: None))
        run = AcousticRun(key, job, _Ears(), hops, flow, vocoder, threading.Condition(), opened_s=self._now_s)
        self._runs[key] = run
        self._llm.add(Sequence(run, answer.num_tokens))

    def _start_call(self) -> None:
        self._call, recheck_s = choose_hops(self._runs, self._costs, self._settings, self._now_s)
        self._recheck_s = None if recheck_s is None else self._now_s + recheck_s
        if self._call:
            self._call_frames = [run.frames_of(hop) for run, hop in self._call]
            self._call_s = self._call_left_s = self._machine.acoustic.call_s([max(1, n) for n in self._call_frames])

    def _advance(self) -> bool:
        """Go on to the next moment at which something happens; False when nobody needs to see more."""
        self._llm.rest(self._now_s)
        both = self._machine.is_shared and bool(self._call) and self._llm.is_busy
        llm_rate, rate = (self._llm_share, 1.0 - self._llm_share) if both else (1.0, 1.0)
        moments = [self._arrivals[0]] if self._arrivals else []
        if self._call:
            moments.append(self._now_s + self._call_left_s / rate)
        elif self._recheck_s is not None:
            moments.append(self._recheck_s)
        if self._llm.is_busy:
            moments.append(self._now_s + self._llm.remaining_s / llm_rate)
        if (rested_s := self._llm.rested_s) is not None:
            moments.append(rested_s)
        next_s = max(self._now_s, min(moments)) + 1e-9
        passed_s, self._now_s = next_s - self._now_s, next_s
        if self._llm.is_busy:
            self._llm.work(min(passed_s * llm_rate, self._llm.remaining_s), self._now_s)
        if not self._call:
            return True
        self._call_left_s -= passed_s * rate
        self._outcome.acoustic_busy_s += passed_s * rate
        return self._call_left_s > 1e-8 or self._end_call()

    def _end_call(self) -> bool:
        call, self._call = self._call, []
        self._costs.observe(len(call), max(self._call_frames), self._call_s)
        self._outcome.call_rows.append(len(call))
        self._outcome.call_frames.append(sum(self._call_frames))
        goes_on = True
        for run, hop in call:
            frames = hop.num_frames - (0 if hop.offset_tokens else WITHHELD_FRAMES)
            frames += WITHHELD_FRAMES if hop.is_final else 0
            audio_s = frames * SAMPLES_PER_FRAME / SAMPLE_RATE_HZ
            unplayed_s = run.job.clock.unplayed_s(run.key, self._now_s)
            run.served(hop, round(audio_s * SAMPLE_RATE_HZ), self._now_s)
            answer = self._answers[run.key]
            answer.pieces.append((self._now_s - answer.asked_s, audio_s))
            goes_on &= unplayed_s is None or unplayed_s > (-0.02 if self._give_up else -_LATE_S)
            if hop.is_final:
                self._leave(run.key, answer)
        return goes_on

    def _leave(self, key: int, answer: Answer) -> None:
        answer.ended_s = self._now_s
        del self._runs[key]
        again_s = answer.heard_s() if self._load.stream else self._now_s
        if self._load.arrivals == "steady" and again_s < self._load.duration_s:
            heapq.heappush(self._arrivals, again_s)


class _Ears:
    """A reader who takes everything at once."""

    has_room = True

    def put(self, samples: np.ndarray) -> None:
        """What is heard is counted by the simulation."""

    def end(self, reason: FinishReason) -> None:
        """See `put`."""

    def fail(self, error: LightTTSError) -> None:
        """Nothing fails here."""


def arithmetic_limit(machine: MachineCosts, settings: AcousticSettings) -> float:
    """Streams that the stages could serve if they did nothing but full calls of large hops: no schedule does better."""
    rows, tokens = settings.max_batch, settings.max_hop_tokens
    acoustic_s = min(
        machine.acoustic.call_s([FRAMES_PER_TOKEN * tokens] * count) / (count * tokens) * CHUNK_TOKENS
        for count in range(1, rows + 1)
    )
    llm_s = CHUNK_TOKENS * min(machine.llm.decode_s(count) / count for count in (1, 4, 16, 64, 256))
    busy_s = acoustic_s + llm_s if machine.is_shared else max(acoustic_s, llm_s)
    return math.inf if busy_s <= 0.0 else 1.0 / busy_s
