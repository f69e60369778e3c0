"""The layout of a run whose text arrives in pieces: blocks of text and speech in turn (spec: llm, section 8). Pure.

    [sos] [instruction] (5 text, 15 speech) x k   (rest of the text) [task] (all remaining speech) -> eos

Where the reference feeds a row twice, drops prompt speech or decodes before any text, this follows the trained layout
instead (section 8.3). What comes out depends on the ids alone, never on when they arrived.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from light_tts.llm.layout import MAX_CODES_PER_TEXT_ID, Blocked
from light_tts.models.speech_ids import SpeechIds
from light_tts.types import FinishReason

MIN_LENGTH_CAP = 100  # codes that any run may emit, however short its text


class BiStreamLayout:
    """A run between its first row and its last code. The engine's thread owns it.

    mix_ratio:  text ids and speech codes of one block.
    max_rows:   the run ends by length when its rows, prompt included, reach this number.
    """

    def __init__(
        self,
        prompt_text_ids: tuple[int, ...],
        prompt_speech: tuple[int, ...],
        ids: SpeechIds,
        *,
        mix_ratio: tuple[int, int],
        max_rows: int,
    ) -> None:
        instruction, transcript = _split_instruction(prompt_text_ids, ids)
        self.rows: list[int] = [ids.sos_row, *instruction]
        self.history: list[int] = []
        self.num_shareable = len(self.rows)
        self.num_sure_rows = 0  # text may come at any time
        self.finish_reason: FinishReason | None = None
        self._ids = ids
        self._text_block, self._speech_block = mix_ratio
        self._max_rows = max_rows
        self._text = deque(transcript)
        self._speech = deque(prompt_speech)
        self._num_prompt_text_left = len(transcript)
        self._num_received = 0
        self._num_emitted = 0
        self._num_in_block = len(prompt_speech) % self._speech_block  # speech rows of the block being filled
        self._text_is_due = self._num_in_block == 0
        self._text_has_ended = False
        self._is_final = False
        self._settle()

    @property
    def num_rows(self) -> int:
        """See `Layout.num_rows`."""
        return len(self.rows)

    @property
    def num_rows_owed(self) -> int:
        """Rows known so far and those that what has been received will still become."""
        return len(self.rows) + len(self._text) + len(self._speech) + (not self._is_final)

    @property
    def wants_sample(self) -> bool:
        """True when speech is to be decoded now. Never before the first id of the text itself."""
        if self.finish_reason is not None or not self._num_received:
            return False
        return self._is_final or not (self._speech or self._text_is_due)

    @property
    def blocked(self) -> Blocked:
        """All control ids but one: `fill` while text may come, `eos` after it."""
        allowed = self._ids.eos if self._is_final else self._ids.fill
        return (self._ids.num_codes, allowed), (allowed + 1, self._ids.head_size)

    @property
    def continues_with_code(self) -> bool:
        """Unless the code fills its block or is the last one allowed."""
        fills_block = not self._is_final and self._num_in_block + 1 == self._speech_block
        return self.wants_sample and not fills_block and not self._is_last(self._num_emitted + 1, len(self.rows) + 1)

    def blocked_at(self, step: int) -> tuple[Blocked, int]:
        """See `Layout.blocked_at`; the end of the text may change it at any time."""
        return self.blocked, step

    def append(self, text_ids: Iterable[int]) -> None:
        """More text; after `finish` it is ignored."""
        if self._text_has_ended:
            return
        arrived = tuple(text_ids)
        self._text.extend(arrived)
        self._num_received += len(arrived)
        self._settle()

    def finish(self) -> None:
        """No more text comes. A run that received none ends at once, by length."""
        self._text_has_ended = True
        if not self._num_received:
            self.finish_reason = FinishReason.LENGTH
        self._settle()

    def accept(self, token: int) -> int | None:
        """`fill` asks for the next block of text, `eos` ends the run, a code is fed back."""
        self.history.append(token)
        if token < self._ids.num_codes:
            self._take_code(token)
            return token
        if self._is_final:
            self.finish_reason = FinishReason.STOP
        else:
            self._text_is_due = True
            self._settle()
        return None

    def _take_code(self, code: int) -> None:
        self.rows.append(self._ids.speech_row0 + code)
        self._num_emitted += 1
        self._num_in_block += 1
        if not self._is_final and self._num_in_block == self._speech_block:
            self.history.append(self._ids.fill)  # the block is full: `fill` without a sample
            self._text_is_due = True
            self._settle()
        if self._is_last(self._num_emitted, len(self.rows)):
            self.finish_reason = FinishReason.LENGTH

    def _is_last(self, num_emitted: int, num_rows: int) -> bool:
        """True when no code may follow so many codes and rows."""
        most = max(MIN_LENGTH_CAP, MAX_CODES_PER_TEXT_ID * self._num_received)
        return num_emitted >= most or num_rows >= self._max_rows

    def _settle(self) -> None:
        """Turn everything that is due into rows."""
        if self.finish_reason is not None or self._is_final:
            return
        while self._speech and len(self._text) >= self._text_block:
            self._feed_text(self._text_block)
            self._feed_prompt_speech(self._speech_block)
        if self._text_is_due and not self._speech and len(self._text) >= self._text_block:
            self._feed_text(self._text_block)
            self._num_in_block, self._text_is_due = 0, False
        if self._text_has_ended and (self._speech or self._text_is_due):
            self._feed_text(len(self._text))
            self.rows.append(self._ids.task_row)
            self._feed_prompt_speech(len(self._speech))
            self._is_final = True
        if len(self.rows) >= self._max_rows:
            self.finish_reason = FinishReason.LENGTH

    def _feed_text(self, count: int) -> None:
        self.rows.extend(self._text.popleft() for _ in range(count))
        if self.num_shareable == len(self.rows) - count:
            self.num_shareable += min(count, self._num_prompt_text_left)
        self._num_prompt_text_left = max(self._num_prompt_text_left - count, 0)

    def _feed_prompt_speech(self, most: int) -> None:
        count = min(most, len(self._speech))
        is_shareable = self.num_shareable == len(self.rows)
        self.rows.extend(self._ids.speech_row0 + self._speech.popleft() for _ in range(count))
        if is_shareable:
            self.num_shareable += count


def _split_instruction(prompt_text_ids: tuple[int, ...], ids: SpeechIds) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The part up to the end-of-prompt tag, fed at once, and the transcript, fed in blocks."""
    if not ids.needs_end_of_prompt or ids.end_of_prompt not in prompt_text_ids:
        return (), prompt_text_ids
    cut = prompt_text_ids.index(ids.end_of_prompt) + 1
    return prompt_text_ids[:cut], prompt_text_ids[cut:]
