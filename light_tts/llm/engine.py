"""The built-in backend: many runs at once on one network.

One thread owns the scheduler, the pages and every sequence; see `engine_thread.py` for its life.
"""

from __future__ import annotations

import logging
import math
from functools import partial

from light_tts.errors import ConfigError, TextTooLong
from light_tts.events import NO_EVENTS, NO_PROGRESS, EngineEvents, StartProgress
from light_tts.gpu_turns import NO_TURNS, GpuTurns
from light_tts.llm import listeners
from light_tts.llm.admission import SamplingValues, check_prompt, limits_of, sampling_of
from light_tts.llm.backend import LLMStats, RunHandle, TextRunHandle
from light_tts.llm.bistream import BiStreamLayout
from light_tts.llm.block_manager import BlockManager
from light_tts.llm.engine_thread import EngineThread
from light_tts.llm.handles import RunInProgress, TextRunInProgress
from light_tts.llm.joining import JoiningRule
from light_tts.llm.layout import Layout, OneWayLayout
from light_tts.llm.lead_limit import LeadLimit
from light_tts.llm.model_runner import ModelRunner
from light_tts.llm.quantization import llm_memory
from light_tts.llm.random import run_key
from light_tts.llm.scheduler import Scheduler
from light_tts.llm.sequence import RowSampling
from light_tts.llm.sequence import Sequence as Run
from light_tts.llm.silence import SilenceFilter
from light_tts.llm.step_cycle import StepCycle
from light_tts.models.nets.speech_lm import SpeechLM
from light_tts.settings import LLMSettings
from light_tts.types import FinishReason, LLMPrompt, SamplingOptions, TokenSink

logger = logging.getLogger(__name__)

_CHECKPOINT_SAMPLING = SamplingOptions()
# So long a call for a first audio is waited for that can begin: launching both at once would take both longer.
FIRST_CALL_BEGINS_S = 0.002
FEW_RUNS = 16  # with more there is hardly a moment at which nobody waits for codes


class SpeechTokenEngine(EngineThread):
    """A `SpeechTokenBackend` over a `SpeechLM`.

    sampling:   the checkpoint's own sampling values.
    mix_ratio:  text ids and speech codes of one block of a text run.
    events:     is told of every step.
    turns:      says when steps give way to flow and vocoder.

    Raises ConfigError when the KV cache cannot hold one page.
    """

    def __init__(
        self,
        lm: SpeechLM,
        *,
        sampling: SamplingValues,
        settings: LLMSettings,
        mix_ratio: tuple[int, int],
        events: EngineEvents = NO_EVENTS,
        turns: GpuTurns = NO_TURNS,
    ) -> None:
        super().__init__()
        num_blocks = settings.max_total_tokens // settings.block_tokens
        if not num_blocks:
            raise ConfigError(
                f"max_total_tokens {settings.max_total_tokens} is less than one page of {settings.block_tokens} tokens."
            )
        self._lm = lm
        self._defaults = sampling
        self._settings = settings
        self._mix_ratio = mix_ratio
        self._events = events
        self._max_rows = min(settings.max_request_tokens, num_blocks * settings.block_tokens)
        self._runner = ModelRunner(
            lm,
            num_blocks=num_blocks,
            block_tokens=settings.block_tokens,
            win_size=sampling.win_size,
            tau_r=sampling.tau_r,
            kv_int8=settings.kv_cache_dtype == "int8",
        )
        self.memory = llm_memory(lm, self._runner.cache)
        logger.info("language model: %s", self.memory)
        self._live: set[Run] = set()
        self._num_arrivals = 0
        self._num_steps = self._num_codes = 0  # before the last failure
        self._turns = turns
        turns.call_at_change(self._wake_up)
        self._reset()

    # life

    def capture(self, progress: StartProgress = NO_PROGRESS) -> None:
        """Record steps as CUDA graphs, unless the settings forbid it; nothing may be running."""
        settings = self._settings
        if not settings.disable_cudagraph:
            self._runner.capture(
                most_rows=min(settings.graph_max_batch_size, settings.max_running),
                most_packed_rows=settings.prefill_budget_tokens,
                most_running=settings.max_running,
                most_tokens=self._max_rows,
                warm_up_iterations=settings.graph_warmup_iterations,
                overlaps=settings.overlap_kernels,
                progress=progress,
            )

    def start(self) -> None:
        """Start the thread; after a failure, start again with nothing running. Records CUDA graphs the first time."""
        self.capture()
        with self._wake:
            if self._error is not None:
                self._num_steps += self._cycle.num_steps
                self._num_codes += self._cycle.num_codes
                self._reset()
            super().start()

    def stats(self) -> LLMStats:
        """The present load; takes no lock, so that its parts may be of two steps in a row."""
        scheduler, cycle = self._scheduler, self._cycle
        return LLMStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            resting=len(scheduler.resting),
            parked=len(scheduler.parked),
            kv_blocks_used=scheduler.blocks.num_used,
            kv_blocks_total=scheduler.blocks.num_total,
            kv_blocks_kept=scheduler.blocks.num_kept,
            steps=self._num_steps + cycle.num_steps,
            speech_tokens=self._num_codes + cycle.num_codes,
            preemptions=scheduler.num_preemptions,
            prefix_rows_reused=scheduler.num_rows_reused,
        )

    # runs

    def submit(
        self,
        prompt: LLMPrompt,
        sink: TokenSink,
        *,
        seed: int,
        run_index: int = 0,
        sampling: SamplingOptions = _CHECKPOINT_SAMPLING,
        is_live: bool = False,
    ) -> RunHandle:
        """See `SpeechTokenBackend.submit`."""
        check_prompt(prompt, self._lm.ids, self._lm.num_text_rows, text_follows=False)
        fewest, most = limits_of(prompt, self._max_rows)
        values = sampling_of(sampling, self._defaults, greedy=self._settings.greedy)
        layout = OneWayLayout(prompt, self._lm.ids, min_codes=fewest, max_codes=most)
        run = self._take_in(layout, values, run_key(seed, run_index), sink, is_live=is_live)
        return RunInProgress(run, partial(self._command, partial(self._end, run, FinishReason.ABORT)))

    def open_text_run(
        self,
        prompt: LLMPrompt,
        sink: TokenSink,
        *,
        seed: int,
        run_index: int = 0,
        sampling: SamplingOptions = _CHECKPOINT_SAMPLING,
    ) -> TextRunHandle:
        """See `SpeechTokenBackend.open_text_run`; text that the prompt already holds is the first piece."""
        check_prompt(prompt, self._lm.ids, self._lm.num_text_rows, text_follows=True)
        values = sampling_of(sampling, self._defaults, greedy=self._settings.greedy)
        layout = BiStreamLayout(
            prompt.prompt_text_ids,
            prompt.prompt_speech,
            self._lm.ids,
            mix_ratio=self._mix_ratio,
            max_rows=self._max_rows,
        )
        if layout.num_rows_owed >= self._max_rows:
            raise _too_long(layout, self._max_rows)
        run = self._take_in(layout, values, run_key(seed, run_index), sink)
        handle = TextRunInProgress(
            run,
            abort=partial(self._command, partial(self._end, run, FinishReason.ABORT)),
            append=lambda text_ids: self._command(partial(self._append_text, run, layout, text_ids)),
            finish=partial(self._command, partial(self._finish_text, run, layout)),
            num_text_rows=self._lm.num_text_rows,
        )
        if prompt.text_ids:
            handle.append(prompt.text_ids)
        return handle

    # the step

    def step(self) -> bool:
        """One step by hand, for callers that run no thread. Returns True when something was computed."""
        self._obey()
        return self._cycle.step()

    # ends

    def _end(self, run: Run, outcome: FinishReason | Exception) -> None:
        """Free everything the run holds, then tell its sink."""
        if run.is_finished:
            return
        self._scheduler.remove(run)
        self._runner.forget(run)
        with self._wake:
            self._live.discard(run)
        listeners.tell_outcome(run, outcome)

    def _fail_all(self, error: Exception) -> None:
        with self._wake:
            live, self._live = sorted(self._live, key=lambda run: run.arrival), set()
            self._commands.clear()
        for run in live:
            if not run.is_finished:
                self._scheduler.remove(run)
                self._runner.forget(run)
                listeners.tell_outcome(run, error)

    # the thread

    def _turn(self) -> bool:
        return self.step()

    def _next_turn_s(self) -> float | None:
        return self._cycle.rested_s()

    def _has_work(self) -> bool:
        """The same, but leave the GPU to a call for somebody's first audio, as long as nobody waits for codes."""
        if super()._has_work():
            if self._has_enough_for_first_call():
                self._wait_for_news(lambda: not self._turns.serves_first_audio, FIRST_CALL_BEGINS_S)
            if self._must_give_way():
                self._cycle.settle()
                self._wait_for_news(self._must_give_way)
        return not self._is_closing

    def _has_enough_for_first_call(self) -> bool:
        """True when a run has just got what its first audio needs: the call for it can begin any moment."""
        first_codes, num_running = self._turns.first_codes, len(self._scheduler.running)
        return first_codes > 0 and num_running <= FEW_RUNS and self._fewest_codes() == first_codes

    def _must_give_way(self) -> bool:
        return self._turns.serves_first_audio and self._fewest_codes() >= self._turns.first_codes

    def _fewest_codes(self) -> float:
        """Of a run: 0 while one waits to begin, infinite when there is none."""
        if self._scheduler.waiting:
            return 0
        return min((len(run.layout.history) for run in self._scheduler.running), default=math.inf)

    # what commands do, on the thread

    def _take_in(
        self, layout: Layout, sampling: RowSampling, key: int, sink: TokenSink, *, is_live: bool = False
    ) -> Run:
        with self._wake:
            self._refuse_if_gone()
            run = Run(self._num_arrivals, layout, sampling, key, sink, SilenceFilter(self._lm.ids.silent_codes))
            run.runs_ahead = self._runner.runs_ahead(sampling)
            run.num_sure_rows = layout.num_sure_rows if run.runs_ahead else 0
            run.is_live = is_live
            self._num_arrivals += 1
            self._live.add(run)
            self._command(partial(self._add, run))
        return run

    def _add(self, run: Run) -> None:
        self._scheduler.add(run)
        if run.layout.finish_reason is not None:
            self._end(run, run.layout.finish_reason)

    def _append_text(self, run: Run, layout: BiStreamLayout, text_ids: tuple[int, ...]) -> None:
        if run.is_finished:
            return
        layout.append(text_ids)
        if layout.num_rows_owed >= self._max_rows:
            self._end(run, _too_long(layout, self._max_rows))
        else:
            self._look_again(run)

    def _finish_text(self, run: Run, layout: BiStreamLayout) -> None:
        if not run.is_finished:
            layout.finish()
            self._look_again(run)

    def _look_again(self, run: Run) -> None:
        if run.layout.finish_reason is not None:
            self._end(run, run.layout.finish_reason)
        else:
            self._scheduler.wake(run)

    def _reset(self) -> None:
        settings = self._settings
        num_blocks = settings.max_total_tokens // settings.block_tokens
        blocks = BlockManager(num_blocks, settings.block_tokens, prefix_cache=settings.prefix_cache)
        self._scheduler = Scheduler(
            blocks,
            max_running=settings.max_running,
            budget_rows=settings.prefill_budget_tokens,
            joining=JoiningRule(
                settings.kv_watermark, settings.expected_output_tokens, settings.steps_between_admissions
            ),
        )
        self._cycle = StepCycle(
            self._scheduler,
            self._runner,
            lead_limit=LeadLimit(settings.max_lead_s),
            events=self._events,
            end=self._end,
        )


def _too_long(layout: BiStreamLayout, max_rows: int) -> TextTooLong:
    return TextTooLong(
        f"The text of this stream is too long: it takes {layout.num_rows_owed} tokens with its prompt, the limit is "
        f"{max_rows} (max_request_tokens); begin a new stream.",
        "text",
    )
