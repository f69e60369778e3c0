"""Our sampling rule inside vLLM: it draws, and leaves vLLM no choice.

vLLM's own samplers know neither repetition-aware sampling nor random numbers that depend on nothing but the request. A
logits processor may change every logit, so this one draws the id of each row and sets all others to -inf; vLLM,
which is told to be greedy, takes it. Same arithmetic, same numbers, same ids as the built-in backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from light_tts.llm.random import uniforms
from light_tts.llm.sampler import Sampler, SamplingBatch
from light_tts.llm.sequence import RowSampling

OPTION = "light_tts"  # of a request's extra_args


@dataclass(frozen=True)
class DrawOptions:
    """What a run's draws depend on besides its history.

    key:         of its random numbers (`random.run_key`).
    sampling:    its sampling values.
    min_codes:   so many codes come before anything that ends the run.
    stops:       half-open range of the ids that end it.
    """

    key: int
    sampling: RowSampling
    min_codes: int
    stops: tuple[int, int]

    def params(self, max_codes: int, stop_ids: list[int]) -> SamplingParams:
        """A request of vLLM that draws so: `max_codes` at most, ended early by one of `stop_ids`."""
        return SamplingParams(
            temperature=0.0,
            max_tokens=max_codes,
            stop_token_ids=stop_ids,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={OPTION: self},
        )


@dataclass
class _Row:
    """One row of vLLM's batch. history: vLLM's own list of the ids drawn so far, which grows by itself."""

    options: DrawOptions
    history: list[int]


class RepetitionAwareDraws(LogitsProcessor):  # type: ignore[misc]
    """Draws one id for each row of a batch. vLLM makes it, and calls it on the thread that steps its engine.

    The window and share of the repetition rule stand in vLLM's `additional_config`, as "win_size" and "tau_r".
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        rule = vllm_config.additional_config
        self._head_size = vllm_config.model_config.hf_config.vocab_size - 1
        self._device = device
        self._sampler = Sampler(
            win_size=rule["win_size"], tau_r=rule["tau_r"], head_size=self._head_size, device=device
        )
        self._rows: dict[int, _Row] = {}

    def is_argmax_invariant(self) -> bool:
        """It decides the argmax."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests to their rows."""

        def row_of(params: SamplingParams, _: list[int] | None, history: list[int]) -> _Row:
            return _Row(params.extra_args[OPTION], history)

        process_dict_updates(self._rows, batch_update, row_of)

    def apply(self, logits: Tensor) -> Tensor:
        """[B, V + 1] -> the same shape, -inf everywhere but at the ids drawn; id V stands for logits not finite."""
        rows = [self._rows[index] for index in range(len(logits))]
        drawn = self._sampler.sample(logits[:, : self._head_size].clone(), self._batch(rows)).tokens
        drawn = torch.where(drawn < 0, self._head_size, drawn)
        return logits.fill_(float("-inf")).scatter_(1, drawn[:, None], 0.0)

    def _batch(self, rows: list[_Row]) -> SamplingBatch:
        options = [row.options for row in rows]
        sampling = [option.sampling for option in options]
        width = self._sampler.win_size
        steps = [len(row.history) for row in rows]
        return SamplingBatch(
            blocked=self._integers([_blocked(row) for row in rows]),
            window=self._integers([_window(row.history, width) for row in rows]),
            top_p=self._numbers([values.top_p for values in sampling]),
            top_k=self._integers([values.top_k for values in sampling]),
            max_top_k=max(values.top_k for values in sampling),
            temperature=self._numbers([values.temperature for values in sampling])
            if any(values.temperature != 1.0 for values in sampling)
            else None,
            greedy=self._integers([values.greedy for values in sampling]).bool()
            if any(values.greedy for values in sampling)
            else None,
            uniforms=uniforms(self._integers([option.key for option in options]), self._integers(steps)),
        )

    def _integers(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self._device, non_blocking=True)

    def _numbers(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).to(self._device, non_blocking=True)


def _blocked(row: _Row) -> tuple[int, int, int, int]:
    start, stop = row.options.stops if len(row.history) < row.options.min_codes else (0, 0)
    return start, stop, 0, 0


def _window(history: list[int], width: int) -> list[int]:
    """The last `width` ids, padded in front with an id that no draw equals."""
    last = history[-width:]
    return [-1] * (width - len(last)) + last
