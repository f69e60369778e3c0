"""What a run feeds to the network and what its samples mean: the one-way layout (spec: llm, sections 4 and 5). Pure.

A layout is a list of joint-table rows that only grows. It says when a sample is wanted at its last row, which ids that
sample must not be, and what follows from the id that came out. It knows nothing of pages, batches or probabilities.
"""

from __future__ import annotations

from typing import Protocol

from light_tts.models.speech_ids import SpeechIds
from light_tts.types import FinishReason, LLMPrompt

MIN_CODES_PER_TEXT_ID = 2
MAX_CODES_PER_TEXT_ID = 20

Blocked = tuple[tuple[int, int], tuple[int, int]]  # two half-open ranges of output ids
NOTHING_BLOCKED: Blocked = ((0, 0), (0, 0))


class Layout(Protocol):
    """The course of one run, as the engine sees it.

    history:        ids sampled so far, fill ids included; its length numbers the sampling step.
    num_shareable:  leading rows that other runs of the same voice may have in common.
    num_sure_rows:  below so many rows, each code is fed back and followed by another, whatever else happens: all that
                    `accept` does with it is to append it to `history`, from which `rows` follow.
    finish_reason:  None while the run goes on.
    """

    history: list[int]
    num_shareable: int
    num_sure_rows: int
    finish_reason: FinishReason | None

    @property
    def rows(self) -> list[int]:
        """Joint-table rows known so far, in order; never changed, only appended to."""

    @property
    def num_rows(self) -> int:
        """How many they are."""

    @property
    def wants_sample(self) -> bool:
        """True when the next id is to be sampled at the last row."""

    @property
    def blocked(self) -> Blocked:
        """Output ids that the next sample must not be."""

    @property
    def continues_with_code(self) -> bool:
        """True when the next sample, should it be a code, is fed back and followed by another, whichever code it is."""

    def blocked_at(self, step: int) -> tuple[Blocked, int]:
        """Output ids that the sample numbered `step` must not be, and the first number for which that may change.

        step:  the next sample's or the one after, when `continues_with_code`.
        """

    def accept(self, token: int) -> int | None:
        """Take the sampled id; returns it when it is a speech code to emit."""


def length_limits(
    num_counted_ids: int, min_ratio: float = MIN_CODES_PER_TEXT_ID, max_ratio: float = MAX_CODES_PER_TEXT_ID
) -> tuple[int, int]:
    """Fewest and most speech codes for a text of `num_counted_ids` ids (spec: llm, section 5)."""
    return int(num_counted_ids * min_ratio), int(num_counted_ids * max_ratio)


def one_way_rows(prompt: LLMPrompt, ids: SpeechIds) -> list[int]:
    """`[sos] [prompt text] [text] [task] [prompt speech]` as joint-table rows."""
    speech = [ids.speech_row0 + code for code in prompt.prompt_speech]
    return [ids.sos_row, *prompt.prompt_text_ids, *prompt.text_ids, ids.task_row, *speech]


class OneWayLayout:
    """The whole text is known from the start.

    min_codes:  every stop id is blocked before so many codes.
    max_codes:  the run ends by length after so many; 0: it has ended before it began.
    """

    def __init__(self, prompt: LLMPrompt, ids: SpeechIds, *, min_codes: int, max_codes: int) -> None:
        self._rows = one_way_rows(prompt, ids)
        self._num_prompt_rows = len(self._rows)
        self.history: list[int] = []
        self.num_shareable = 1 + len(prompt.prompt_text_ids)
        self.finish_reason: FinishReason | None = None if max_codes > 0 else FinishReason.LENGTH
        self._ids = ids
        self._stop_ids: Blocked = (ids.first_stop, ids.last_stop + 1), (0, 0)
        self._min_codes, self._max_codes = min_codes, max_codes
        self.num_sure_rows = self._num_prompt_rows + max_codes - 1

    @property
    def rows(self) -> list[int]:
        """See `Layout.rows`; those of new codes are added when somebody asks, which is seldom on a GPU."""
        num_known = len(self._rows) - self._num_prompt_rows
        if num_known < len(self.history):
            self._rows.extend(self._ids.speech_row0 + code for code in self.history[num_known:])
        return self._rows

    @property
    def num_rows(self) -> int:
        """See `Layout.num_rows`."""
        return self._num_prompt_rows + len(self.history)

    @property
    def wants_sample(self) -> bool:
        """Always, until the end."""
        return self.finish_reason is None

    @property
    def blocked(self) -> Blocked:
        """Every stop id below the minimum, nothing from there on."""
        return self.blocked_at(len(self.history))[0]

    @property
    def continues_with_code(self) -> bool:
        """Unless the code is the last one allowed."""
        return self.finish_reason is None and len(self.history) + 1 < self._max_codes

    def blocked_at(self, step: int) -> tuple[Blocked, int]:
        """See `Layout.blocked_at`."""
        if step < self._min_codes:
            return self._stop_ids, self._min_codes
        return NOTHING_BLOCKED, self._max_codes

    def accept(self, token: int) -> int | None:
        """A stop id ends the run and is not emitted; a code is fed back."""
        if token >= self._ids.num_codes:
            self.finish_reason = FinishReason.STOP
            return None
        self.history.append(token)
        if len(self.history) >= self._max_codes:
            self.finish_reason = FinishReason.LENGTH
        return token
