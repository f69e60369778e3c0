"""Ids and embedding rows of a speech-token language model, as numbers (spec: llm, sections 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SpeechIds:
    """Control ids of one checkpoint.

    Output ids are rows of the head: `0 .. num_codes-1` are speech codes, the rest is control.
    Input rows live in one joint table `[text rows | extra control rows | speech rows]`:

    num_codes:           S, the number of real speech codes.
    head_size:           rows of the head.
    eos, fill:           output ids: end of speech; ask for more text (bi-stream only).
    first_stop, last_stop:  output ids that end one-way generation, inclusive.
    sos_row, task_row:   joint-table rows that open the sequence, and separate text from speech.
    speech_row0:         joint-table row of speech code 0.
    end_of_prompt:       text id of the end-of-prompt tag.
    needs_end_of_prompt: True when the model was trained with that tag in every prompt.
    silent_codes:        codes of silence or breath whose long runs are dropped (spec: llm, section 7); may be empty.
    """

    num_codes: int
    head_size: int
    eos: int
    fill: int
    first_stop: int
    last_stop: int
    sos_row: int
    task_row: int
    speech_row0: int
    end_of_prompt: int
    needs_end_of_prompt: bool = False
    silent_codes: frozenset[int] = frozenset()

    @property
    def stop_ids(self) -> range:
        """All output ids that end one-way generation."""
        return range(self.first_stop, self.last_stop + 1)
