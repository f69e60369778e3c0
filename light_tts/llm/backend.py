"""The seam between the story of a request and whatever makes its speech tokens.

A backend knows nothing of text, audio or HTTP: ids in, ids out, through sinks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from light_tts.types import LLMPrompt, SamplingOptions, TokenSink

if TYPE_CHECKING:
    from light_tts.llm.quantization import LLMMemory


class RunHandle(Protocol):
    """A run in progress, in the hands of whoever started it. Any thread may call."""

    @property
    def busy_s(self) -> float:
        """The run's share of the steps so far: a step's time, divided by the sequences in it."""

    def abort(self) -> None:
        """End the run early: its sink is told `ABORT`, its memory is free within a step. Idempotent."""


class TextRunHandle(RunHandle, Protocol):
    """A run whose text arrives in pieces."""

    def append(self, text_ids: Sequence[int]) -> None:
        """Hand over the next piece of text. After the end of the run it is ignored.

        Raises InvalidRequest for an id outside the vocabulary.
        """

    def finish(self) -> None:
        """No more text comes; the run speaks what it has and ends."""


@dataclass(frozen=True)
class LLMStats:
    """A snapshot of a backend's load.

    running, waiting, parked:         sequences in the batch, queued for it, and waiting for text.
    resting:                          far ahead of their listeners.
    kv_blocks_used, kv_blocks_total:  pages held by sequences, and all.
    kv_blocks_kept:                   free pages that hold a beginning for reuse.
    steps, speech_tokens:             counted since the start.
    preemptions, prefix_rows_reused:  times a sequence lost its pages; rows that were not computed again.
    """

    running: int = 0
    waiting: int = 0
    parked: int = 0
    resting: int = 0
    kv_blocks_used: int = 0
    kv_blocks_total: int = 0
    kv_blocks_kept: int = 0
    steps: int = 0
    speech_tokens: int = 0
    preemptions: int = 0
    prefix_rows_reused: int = 0


class SpeechTokenBackend(Protocol):
    """Makes speech tokens for many runs at once. Any thread may call; sinks are called on the backend's own.

    on_death:      called when the backend broke; its runs have failed with StageLost by then.
    busy_since_s:  of `time.monotonic`: when the step began that is being worked on; None while there is nothing to do.
    memory:        what its weights and its KV cache take.
    """

    on_death: Callable[[], None]
    busy_since_s: float | None
    memory: LLMMemory

    def start(self) -> None:
        """Begin to work."""

    def close(self) -> None:
        """Stop; runs in progress fail with Cancelled. Closing twice is fine."""

    def join(self) -> None:
        """Wait until the work has ended, after `close` or a failure."""

    @property
    def is_alive(self) -> bool:
        """True while runs are worked on."""

    @property
    def error(self) -> Exception | None:
        """What broke the backend, if something did."""

    def submit(
        self,
        prompt: LLMPrompt,
        sink: TokenSink,
        *,
        seed: int,
        run_index: int = 0,
        sampling: SamplingOptions = ...,
        is_live: bool = ...,
    ) -> RunHandle:
        """Start a run whose text is known. The same arguments give the same tokens, whatever else is running.

        seed, run_index:  any integers; runs of one request share the seed and differ in the index.
        sampling:         changes to the checkpoint's own values.
        is_live:          somebody hears the speech as it is made, so that the run may rest when it is far ahead.

        Raises InvalidRequest for ids or sampling values out of range, TextTooLong when prompt and shortest answer
        exceed the limit of one sequence, EngineFailure when the backend is closed or broken. The sink is untouched.
        """

    def open_text_run(
        self,
        prompt: LLMPrompt,
        sink: TokenSink,
        *,
        seed: int,
        run_index: int = 0,
        sampling: SamplingOptions = ...,
    ) -> TextRunHandle:
        """Start a run whose text arrives later (spec: llm, section 8); `prompt.text_ids` is empty.

        Raises as `submit`, and Unsupported where the backend cannot.
        """

    def stats(self) -> LLMStats:
        """The present load; takes no lock."""
