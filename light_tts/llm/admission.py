"""Checks of a run before it is taken in: ids, sampling values, length. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from light_tts.errors import InvalidRequest, TextTooLong
from light_tts.llm.layout import length_limits
from light_tts.llm.sequence import RowSampling
from light_tts.models.speech_ids import SpeechIds
from light_tts.types import LLMPrompt, SamplingOptions

_NUM_CONTROL_ROWS = 2  # sos and task


class SamplingValues(Protocol):
    """The checkpoint's own sampling values (spec: llm, section 6)."""

    @property
    def top_p(self) -> float:
        """Probability mass of the candidates."""

    @property
    def top_k(self) -> int:
        """Most candidates."""

    @property
    def win_size(self) -> int:
        """Ids that the repetition rule looks back on."""

    @property
    def tau_r(self) -> float:
        """Share of them that makes a draw a repetition."""


def check_text_ids(text_ids: Sequence[int], num_text_rows: int) -> None:
    """Raises InvalidRequest for an id outside the vocabulary."""
    wrong = _outside(text_ids, num_text_rows)
    if wrong is not None:
        raise InvalidRequest(f"Text id {wrong} is outside the vocabulary of {num_text_rows} ids.", "text")


def check_prompt(prompt: LLMPrompt, ids: SpeechIds, num_text_rows: int, *, text_follows: bool) -> None:
    """Raises InvalidRequest for ids out of range, and for a missing end-of-prompt tag where the model needs it.

    text_follows:  the text is not part of the prompt, so the tag must be in the prompt's own text.
    """
    check_text_ids((*prompt.prompt_text_ids, *prompt.text_ids), num_text_rows)
    wrong = _outside(prompt.prompt_speech, ids.num_codes)
    if wrong is not None:
        raise InvalidRequest(
            f"Prompt speech code {wrong} is not one of the model's {ids.num_codes} codes; the voice belongs to another "
            "model.",
            "voice",
        )
    tagged = prompt.prompt_text_ids if text_follows else (*prompt.prompt_text_ids, *prompt.text_ids)
    if ids.needs_end_of_prompt and ids.end_of_prompt not in tagged:
        raise InvalidRequest(
            "The prompt text must hold the tag <|endofprompt|>, which this model requires.", "prompt_text"
        )


def limits_of(prompt: LLMPrompt, max_request_tokens: int) -> tuple[int, int]:
    """Fewest and most codes of a one-way run, the most cut to what fits into `max_request_tokens` rows.

    Raises TextTooLong when not even the fewest fit.
    """
    num_rows = len(prompt.prompt_text_ids) + len(prompt.text_ids) + len(prompt.prompt_speech) + _NUM_CONTROL_ROWS
    fewest, most = length_limits(prompt.num_counted_ids)
    if num_rows + fewest > max_request_tokens:
        raise TextTooLong(
            f"The text is too long for one piece: prompt and text take {num_rows} tokens and the speech at least "
            f"{fewest}, more than the limit of {max_request_tokens} (max_request_tokens); shorten or split the text.",
            "text",
        )
    return fewest, min(most, max_request_tokens - num_rows)


def sampling_of(options: SamplingOptions, defaults: SamplingValues, *, greedy: bool = False) -> RowSampling:
    """The checkpoint's values with the request's changes. Raises InvalidRequest for a value out of range.

    greedy:  whatever the request says.
    """
    top_p = defaults.top_p if options.top_p is None else options.top_p
    top_k = defaults.top_k if options.top_k is None else options.top_k
    temperature = 1.0 if options.temperature is None else options.temperature
    if not 0.0 < top_p <= 1.0:
        raise InvalidRequest(f"top_p must be above 0 and at most 1, not {top_p}.", "top_p")
    if top_k < 1:
        raise InvalidRequest(f"top_k must be at least 1, not {top_k}.", "top_k")
    if not 0.0 < temperature <= 100.0:
        raise InvalidRequest(f"temperature must be above 0 and at most 100, not {temperature}.", "temperature")
    return RowSampling(top_p, top_k, temperature, greedy or options.greedy)


def _outside(numbers: Sequence[int], limit: int) -> int | None:
    """The first number that is not at least 0 and below the limit."""
    if not numbers or (min(numbers) >= 0 and max(numbers) < limit):
        return None
    return next(number for number in numbers if not 0 <= number < limit)
