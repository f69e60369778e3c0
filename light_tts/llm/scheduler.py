"""Which rows of which sequences one step of the engine computes. Pure.

Continuous batching with chunked prefill (Agrawal et al. 2024, arXiv:2403.02310): rows of prompts fill what the decoding
sequences leave of a budget. Pages are given as they are needed; when none are left, the youngest sequence gives up its
own and computes them again later. The oldest sequence can therefore always go on, and so every one ends.
"""

from __future__ import annotations

from bisect import insort
from operator import attrgetter
from typing import NamedTuple

from light_tts.llm.block_manager import BlockManager
from light_tts.llm.decoding_group import NO_AHEAD_ROWS, AheadRows, DecodingGroup
from light_tts.llm.joining import JoiningRule
from light_tts.llm.sequence import Sequence, SequenceState

JOIN_AT_ONCE = JoiningRule()

_arrival = attrgetter("arrival")


class Chunk(NamedTuple):
    """Rows `start .. start + num_rows` of a sequence, to be computed in this step.

    samples:   it reaches the last row, where a sample is wanted.
    is_ahead:  its one row is that of the sequence's sample that is still on its way.
    """

    sequence: Sequence
    start: int
    num_rows: int
    samples: bool
    is_ahead: bool = False

    @classmethod
    def of(cls, sequence: Sequence, num_rows: int) -> Chunk:
        """The next `num_rows` rows of a sequence."""
        start = sequence.num_computed
        if sequence.num_drawing:
            return cls(sequence, start, num_rows, True, True)
        return cls(sequence, start, num_rows, start + num_rows == sequence.layout.num_rows, False)


class StepPlan(NamedTuple):
    """What a step computes: rows of those that decode on and on, and chunks of the others."""

    ahead: AheadRows
    chunks: list[Chunk]

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to compute."""
        return not self.ahead.sequences and not self.chunks

    @property
    def num_sequences(self) -> int:
        """That take part."""
        return len(self.ahead.sequences) + len(self.chunks)

    @property
    def num_rows(self) -> int:
        """Of all of them."""
        return len(self.ahead.sequences) + sum(chunk.num_rows for chunk in self.chunks)

    def as_chunks(self) -> list[Chunk]:
        """The same as chunks only, before they are computed."""
        is_ahead = not self.ahead.is_known
        ahead = [Chunk(sequence, sequence.num_computed, 1, True, is_ahead) for sequence in self.ahead.sequences]
        return ahead + self.chunks


class Scheduler:
    """The engine's thread owns it.

    max_running:  most sequences in the batch; parked and resting ones do not count.
    budget_rows:  most rows of one step.
    joining:      when new sequences join.
    """

    def __init__(
        self, blocks: BlockManager, *, max_running: int, budget_rows: int, joining: JoiningRule = JOIN_AT_ONCE
    ) -> None:
        self.blocks = blocks
        self.waiting: list[Sequence] = []  # by arrival
        self.running: list[Sequence] = []  # by arrival
        self.parked: list[Sequence] = []  # by arrival
        self.resting: list[Sequence] = []  # by arrival
        self.num_preemptions = 0
        self.num_rows_reused = 0
        self._max_running = max_running
        self._budget_rows = budget_rows
        self._joining = joining
        self._step = self._last_joining_step = 0
        self._group = DecodingGroup(blocks.block_tokens)

    @property
    def together(self) -> tuple[Sequence, ...]:
        """Those that decode together: the same object as long as nobody joins or leaves."""
        return self._group.sequences

    def add(self, sequence: Sequence) -> None:
        """Take in a new sequence."""
        if sequence.num_pending > 0:
            self._queue(sequence)
        else:
            self._park(sequence)

    def wake(self, sequence: Sequence) -> None:
        """Look again at a parked sequence whose layout has changed."""
        if sequence.state is not SequenceState.PARKED:
            return
        # One that lost its pages computes everything again only when that leads to speech.
        if sequence.layout.wants_sample or (sequence.blocks and sequence.num_pending > 0):
            self.parked.remove(sequence)
            self._queue(sequence)

    def rest(self, sequence: Sequence) -> None:
        """Let a running sequence whose text is complete sit steps out.

        Its place goes to others, and its pages where they are needed.
        """
        self._stop(sequence)
        sequence.state = SequenceState.RESTING
        insort(self.resting, sequence, key=_arrival)

    def go_on(self, sequence: Sequence) -> None:
        """A resting sequence wants its place back."""
        self.resting.remove(sequence)
        self._queue(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and free its pages."""
        match sequence.state:
            case SequenceState.ARRIVED:
                pass
            case SequenceState.WAITING:
                self.waiting.remove(sequence)
            case SequenceState.RUNNING:
                self._stop(sequence)
            case SequenceState.RESTING:
                self.resting.remove(sequence)
            case SequenceState.PARKED:
                self.parked.remove(sequence)
            case SequenceState.FINISHED:
                return
        self._free(sequence)
        sequence.state = SequenceState.FINISHED

    def schedule(self) -> StepPlan:
        """Choose the rows of the next step; pages for them are allocated."""
        self._step += 1
        ahead, others = self._in_turn()
        chunks: list[Chunk] = []
        budget = self._budget_rows - len(ahead.sequences)
        for sequence, num_pending in others:
            if not budget:
                break
            # An older one may just have taken its pages.
            if num_pending and sequence.state is SequenceState.RUNNING:
                num_rows = min(num_pending, budget)
                if self._reserve(sequence, sequence.num_computed + num_rows):
                    chunks.append(Chunk.of(sequence, num_rows))
                    sequence.last_step = self._step
                    budget -= num_rows
        may_join = not self.running or self._step - self._last_joining_step >= self._joining.steps_between
        while may_join and budget and self.waiting and len(self.running) < self._max_running:
            sequence = self.waiting[0]
            # One that lost its pages while a sample of it is on its way begins anew when that is known.
            if sequence.num_drawing or not self._admit(sequence):
                break
            self._last_joining_step = self._step
            chunks.append(Chunk.of(sequence, min(sequence.num_pending, budget)))
            sequence.last_step = self._step
            budget -= chunks[-1].num_rows
        plan = StepPlan(ahead, chunks)
        if plan.is_empty and self.running and self.waiting and not self._is_drawing():
            # Whoever runs needs pages that an older, waiting sequence holds, which waits for a place in turn.
            self._preempt(self.running[-1])
            return self.schedule()
        return plan

    def commit(self, plan: StepPlan) -> None:
        """Note that the rows of `plan` are computed before those of any later step."""
        if plan.ahead.sequences:
            self._group.advance(self._step)
        for sequence, start, num_rows, samples, is_ahead in plan.chunks:
            sequence.num_drawing += samples
            sequence.num_computed += num_rows
            if not is_ahead and start < sequence.layout.num_shareable:
                self._publish(sequence, start)
            if samples and sequence.runs_ahead:
                self._group.join_if_sure(sequence)

    def _publish(self, sequence: Sequence, start: int) -> None:
        """Let others find the pages that are full since the rows from `start` were computed."""
        keys = sequence.shareable_keys(self.blocks.block_tokens)
        num_full = min(sequence.num_computed // self.blocks.block_tokens, len(keys))
        for index in range(start // self.blocks.block_tokens, num_full):
            self.blocks.publish(sequence.blocks[index], keys[index])

    def settle(self, sequence: Sequence) -> None:
        """After a sample or a chunk: park the sequence if it has nothing to compute and no sample on its way."""
        if sequence.state is SequenceState.RUNNING and not sequence.num_drawing and sequence.num_pending <= 0:
            self._stop(sequence)
            self._park(sequence)

    def _is_drawing(self) -> bool:
        """True when samples are on their way, after which there may be something to compute."""
        return any(sequence.num_drawing for sequence in (*self.running, *self.waiting))

    def _in_turn(self) -> tuple[AheadRows, list[tuple[Sequence, int]]]:
        """The rows of those that decode together, and the other running sequences with how many they have to compute.

        Where rows or pages do not suffice for all of them, they are looked at one by one.
        """
        full = self._group.prepare()
        others = self._pending()
        if len(self._group):
            num_rows = len(self._group) + sum(count for _, count in others)
            missing = len(full) + sum(self._num_missing(each, each.num_computed + count) for each, count in others)
            if num_rows <= self._budget_rows and missing <= self.blocks.num_free:
                for sequence, block in zip(full, self.blocks.allocate(len(full)), strict=True):
                    sequence.blocks.append(block)
                return self._group.plan(full), others
            self._group.disband()
            others = self._pending()
        if sum(count for _, count in others) > self._budget_rows:
            # Who waited longest first, then decoding before prompts, then by age: all advance, however small the budget
            # is.
            others.sort(key=lambda item: (item[0].last_step, item[1] > 1, item[0].arrival))
        return NO_AHEAD_ROWS, others

    def _pending(self) -> list[tuple[Sequence, int]]:
        """Running sequences outside the group, and how many rows they have to compute, if any."""
        if len(self._group) == len(self.running):
            return []
        return [(sequence, sequence.num_pending) for sequence in self.running if not sequence.is_grouped]

    def _num_missing(self, sequence: Sequence, num_rows: int) -> int:
        """Pages that a sequence lacks for its first `num_rows` rows."""
        return max(0, self.blocks.num_blocks_for(num_rows) - len(sequence.blocks))

    def _admit(self, sequence: Sequence) -> bool:
        """Give the oldest waiting sequence a place, and pages for all the rows it has."""
        if not sequence.blocks:
            keys = sequence.shareable_keys(self.blocks.block_tokens)
            # At least one row is left to compute: the sample is read there.
            most = (sequence.num_runnable - 1) // self.blocks.block_tokens
            sequence.blocks = self.blocks.attach(keys[:most])
        spare = self._joining.spare_blocks(self.blocks, sequence, self.running)
        missing = self.blocks.num_blocks_for(sequence.num_runnable) - len(sequence.blocks)
        if not self._make_room(missing + spare, sequence, from_running=False):
            if not sequence.num_computed:
                self._free(sequence)
            return False
        if not sequence.num_computed:
            sequence.num_computed = len(sequence.blocks) * self.blocks.block_tokens
            self.num_rows_reused += sequence.num_computed
        sequence.blocks.extend(self.blocks.allocate(missing))
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=_arrival)
        sequence.state = SequenceState.RUNNING
        return True

    def _reserve(self, sequence: Sequence, num_rows: int) -> bool:
        """Pages for the first `num_rows` rows of a running sequence; False: it has to sit this step out."""
        missing = self._num_missing(sequence, num_rows)
        if not missing:
            return True
        if not self._make_room(missing, sequence, from_running=True):
            return False
        sequence.blocks.extend(self.blocks.allocate(missing))
        return True

    def _make_room(self, num_blocks: int, sequence: Sequence, *, from_running: bool) -> bool:
        """Take pages away from others until `num_blocks` are free; from nobody if that would not be enough."""
        if self.blocks.num_free >= num_blocks:
            return True
        victims = self._victims(sequence, from_running)
        if self.blocks.num_free + sum(len(victim.blocks) for victim in victims) < num_blocks:
            return False
        for victim in victims:
            self._preempt(victim)
            if self.blocks.num_free >= num_blocks:
                return True
        return False

    def _victims(self, sequence: Sequence, from_running: bool) -> list[Sequence]:
        """Holders of pages that may lose them to `sequence`: idle ones first, then younger ones, youngest first."""
        idle = [s for s in (*reversed(self.parked), *reversed(self.resting)) if s.blocks]
        queued = [s for s in reversed(self.waiting) if s.blocks and s.arrival > sequence.arrival]
        if not from_running:
            return idle + queued
        # Rows planned for this step keep their pages.
        younger = [s for s in reversed(self.running) if s.arrival > sequence.arrival and s.last_step < self._step]
        return idle + queued + younger

    def _preempt(self, sequence: Sequence) -> None:
        self.num_preemptions += 1
        self._free(sequence)
        if sequence.state is SequenceState.RUNNING:
            self._stop(sequence)
            self._queue(sequence)

    def _stop(self, sequence: Sequence) -> None:
        """A running sequence loses its place."""
        self.running.remove(sequence)
        self._group.leave(sequence)

    def _free(self, sequence: Sequence) -> None:
        self.blocks.release(sequence.blocks)
        sequence.blocks = []
        sequence.num_computed = 0

    def _queue(self, sequence: Sequence) -> None:
        sequence.state = SequenceState.WAITING
        insort(self.waiting, sequence, key=_arrival)

    def _park(self, sequence: Sequence) -> None:
        sequence.state = SequenceState.PARKED
        insort(self.parked, sequence, key=_arrival)
