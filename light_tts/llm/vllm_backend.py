"""vLLM as the backend of the language model: its scheduler, pages and kernels; our network, prompts and sampling rule.

Imported only where it is asked for. Prompts go in as embeddings, ids come out of `vllm_sampling`. One thread steps
vLLM's engine, which lives in this process; see `engine_thread.py` for its life.
"""

from __future__ import annotations

import logging
import time
from functools import partial

import torch

from light_tts.errors import EngineFailure, Unsupported
from light_tts.events import NO_EVENTS, EngineEvents, LLMStep
from light_tts.llm import listeners
from light_tts.llm.admission import SamplingValues, check_prompt, limits_of, sampling_of
from light_tts.llm.backend import LLMStats, RunHandle, TextRunHandle
from light_tts.llm.engine_thread import EngineThread
from light_tts.llm.handles import RunInProgress
from light_tts.llm.layout import OneWayLayout
from light_tts.llm.quantization import LLMMemory, weight_memory
from light_tts.llm.random import run_key
from light_tts.llm.sequence import Sequence as Run
from light_tts.llm.silence import SilenceFilter
from light_tts.llm.step_cycle import failure
from light_tts.llm.vllm_engine import Drawn, VLLMEngine
from light_tts.models.nets.speech_lm import SpeechLM
from light_tts.settings import LLMSettings
from light_tts.types import FinishReason, LLMPrompt, SamplingOptions, TokenSink

logger = logging.getLogger(__name__)

_CHECKPOINT_SAMPLING = SamplingOptions()


class VLLMBackend(EngineThread):
    """A `SpeechTokenBackend` over a `SpeechLM` on the CPU, whose weights vLLM takes to the device.

    The counts of pre-emptions stay 0, and pages of a common beginning count for each of its runs: vLLM does not tell.

    sampling:  the checkpoint's own sampling values.
    events:    is told of every step.

    Raises CheckpointError as `VLLMEngine`.
    """

    def __init__(
        self,
        lm: SpeechLM,
        *,
        sampling: SamplingValues,
        settings: LLMSettings,
        device: torch.device,
        events: EngineEvents = NO_EVENTS,
    ) -> None:
        super().__init__()
        self._ids, self._num_text_rows = lm.ids, lm.num_text_rows
        self._defaults, self._settings, self._events = sampling, settings, events
        self._max_rows = min(settings.max_request_tokens, settings.max_total_tokens)
        weights, kv_dtype = weight_memory(lm), str(lm.dtype).removeprefix("torch.")
        self._engine = VLLMEngine(lm, sampling, settings, device)
        self.memory = LLMMemory(weights, kv_dtype, self._engine.kv_bytes, 0)
        logger.info("language model: %s", self.memory)
        self._live: dict[str, Run] = {}
        self._num_arrivals = self._num_steps = self._num_codes = self._num_rows_reused = 0

    def stats(self) -> LLMStats:
        """The present load."""
        runs = list(self._live.values())
        running = [run for run in runs if run.layout.history]
        return LLMStats(
            running=len(running),
            waiting=len(runs) - len(running),
            kv_blocks_used=sum(-(-run.num_rows // self._engine.block_size) for run in running),
            kv_blocks_total=self._engine.num_blocks,
            steps=self._num_steps,
            speech_tokens=self._num_codes,
            prefix_rows_reused=self._num_rows_reused,
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
        check_prompt(prompt, self._ids, self._num_text_rows, text_follows=False)
        fewest, most = limits_of(prompt, self._max_rows)
        values = sampling_of(sampling, self._defaults, greedy=self._settings.greedy)
        layout = OneWayLayout(prompt, self._ids, min_codes=fewest, max_codes=most)
        with self._wake:
            self._refuse_if_gone()
            silence = SilenceFilter(self._ids.silent_codes)
            run = Run(self._num_arrivals, layout, values, run_key(seed, run_index), sink, silence)
            run.is_live = is_live
            self._num_arrivals += 1
            self._live[_name(run)] = run
            self._command(partial(self._add, run, fewest, most))
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
        """Refuses: what vLLM has begun to compute takes no more text. Raises Unsupported."""
        raise Unsupported(
            "This server's language model runs on vLLM, which takes no text that arrives in pieces; send the whole "
            "text, or start the server with llm_backend built-in.",
            "text",
        )

    # the thread

    def _turn(self) -> bool:
        self._obey()
        if self._engine.has_runs:
            self._step()
        return self._engine.has_runs

    def _step(self) -> None:
        started_s = time.perf_counter()
        drawn = self._engine.step()
        seconds = time.perf_counter() - started_s
        num_rows = 0
        for each in drawn:
            run = self._live.get(each.name)
            if run is None:
                continue
            is_first = not run.layout.history
            num_rows += run.num_rows - each.num_reused if is_first else 1
            self._num_rows_reused += each.num_reused if is_first else 0
            run.busy_s += seconds / len(drawn)
            self._hand_over(run, each)
        if any(self._ids.head_size in each.tokens for each in drawn):
            self._engine.scrub()
        self._num_steps += 1
        self._events.llm_step(LLMStep(seconds, len(drawn), num_rows))

    def _hand_over(self, run: Run, drawn: Drawn) -> None:
        layout = run.layout
        for token in drawn.tokens:
            if token == self._ids.head_size:
                self._end(run, EngineFailure("The language model produced values that are not numbers."))
                return
            code = layout.accept(token)
            if code is None:
                continue
            self._num_codes += 1
            if listeners.put_each([run], [code]):
                self._end(run, EngineFailure("The listener of a run's speech tokens failed."))
                return
        if layout.finish_reason is not None:
            self._end(run, layout.finish_reason)
        elif drawn.end is not None:
            self._end(run, EngineFailure(f"vLLM ended a run early ({drawn.end})."))

    # what commands do, on the thread

    def _add(self, run: Run, fewest: int, most: int) -> None:
        if run.layout.finish_reason is not None:
            self._end(run, run.layout.finish_reason)
            return
        try:
            self._engine.add(_name(run), run, fewest, most)
        # Whatever vLLM has against one request must not reach the others.
        except Exception as error:
            logger.exception("vLLM took a run of the language model not in; it ends")
            self._end(run, failure(EngineFailure, error))

    def _end(self, run: Run, outcome: FinishReason | Exception) -> None:
        """Free everything the run holds, then tell its sink."""
        with self._wake:
            if self._live.pop(_name(run), None) is None:
                return
        self._engine.abort([_name(run)])
        listeners.tell_outcome(run, outcome)

    def _fail_all(self, error: Exception) -> None:
        with self._wake:
            live, self._live = self._live, {}
            self._commands.clear()
            # For the next thread: this one may have broken inside vLLM.
            self._commands.append(partial(self._engine.abort, list(live)))
        for run in live.values():
            listeners.tell_outcome(run, error)


def _name(run: Run) -> str:
    return str(run.arrival)
