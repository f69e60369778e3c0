"""The sequences that decode step after step: planned together, so that most of them cost a step no thought. Pure.

Of each member a sample is drawn by every step, and the row of it is computed by the next one whatever the sample is,
mostly before anybody has seen it. So all members go on by one row a step, and the step in which one of them needs
something is known beforehand.
"""

from __future__ import annotations

from typing import NamedTuple

from light_tts.llm.sequence import Sequence


class AheadRows(NamedTuple):
    """Of each sequence the row of its last sample, which the device still has; after each a sample is drawn.

    step:      as long as `sequences` is the same object, all places are higher by as much as this is.
    grown:     those that have got a page for it.
    is_known:  the samples have been handed over already, instead of being on their way.
    """

    sequences: tuple[Sequence, ...]
    step: int
    grown: tuple[Sequence, ...] = ()
    is_known: bool = False


NO_AHEAD_ROWS = AheadRows((), 0)


class DecodingGroup:
    """The scheduler owns it. A member has a place in the batch, pages, and a sample that the last step has drawn.

    sequences:  the members; the same object as long as nobody joins or leaves.
    """

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self.sequences: tuple[Sequence, ...] = ()
        self._step = 0
        # By step: members that will have filled their pages by then, or have one sure row left.
        self._due: dict[int, dict[Sequence, None]] = {}
        self._is_planned = False

    def __len__(self) -> int:
        return len(self.sequences)

    def join_if_sure(self, sequence: Sequence) -> None:
        """Take in a sequence of which a sample was just launched, if the row of that is sure to be wanted."""
        if _num_sure_steps(sequence) > 0 and sequence.void_start < 0:
            sequence.is_grouped = True
            self.sequences += (sequence,)
            self._expect(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Let a member go; any other sequence is none already."""
        if sequence.is_grouped:
            place = self.sequences.index(sequence)
            self.sequences = self.sequences[:place] + self.sequences[place + 1 :]
            sequence.is_grouped = False
            if not self.sequences:
                self._due = {}

    def disband(self) -> None:
        """Let all members go."""
        for sequence in self.sequences:
            sequence.is_grouped = False
        self.sequences, self._due, self._is_planned = (), {}, False

    def prepare(self) -> list[Sequence]:
        """Begin a step: those whose last sure row comes next leave. Returns members that need one page more."""
        if self._is_planned:
            # The last step was not computed: the device has no samples of it.
            self.disband()
        full = []
        for sequence in self._due.pop(self._step, ()):
            if not sequence.is_grouped:
                continue
            if _num_sure_steps(sequence) <= 0:
                self.leave(sequence)
            elif sequence.num_computed >= len(sequence.blocks) * self._block_tokens:
                full.append(sequence)
        return full

    def plan(self, grown: list[Sequence]) -> AheadRows:
        """The members' rows of the step; `grown` are those that have got the page they needed."""
        for sequence in grown:
            self._expect(sequence)
        self._is_planned = bool(self.sequences)
        is_known = any(not sequence.num_drawing for sequence in self.sequences[:1])
        return AheadRows(self.sequences, self._step, tuple(grown), is_known)

    def advance(self, step: int) -> None:
        """The planned rows are computed before those of any later step; `step` is the scheduler's number of it."""
        self._is_planned = False
        self._step += 1
        for sequence in self.sequences:
            sequence.num_computed += 1
            sequence.num_drawing += 1
            sequence.last_step = step

    def _expect(self, sequence: Sequence) -> None:
        room = len(sequence.blocks) * self._block_tokens - sequence.num_computed
        self._due.setdefault(self._step + min(room, _num_sure_steps(sequence)), {})[sequence] = None


def _num_sure_steps(sequence: Sequence) -> int:
    """Rows that may be computed before the one after which the last code allowed is drawn."""
    return sequence.num_sure_rows - 1 - sequence.num_computed
