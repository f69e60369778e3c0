"""Steps computed in a few fixed shapes: padded, cut into parts where they are too large, drawn ids left on the device.

What makes a shape fast is the business of whoever records it (`cuda_graph.py`); computing it as it stands gives the
same on any device.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable

import torch

from light_tts.llm.decoding_group import NO_AHEAD_ROWS, AheadRows
from light_tts.llm.paged_attention import PagedKVCache
from light_tts.llm.pending import PendingDraws
from light_tts.llm.scheduler import Chunk, StepPlan
from light_tts.llm.sequence import Sequence
from light_tts.llm.sequence_table import SequenceTable
from light_tts.llm.step_inputs import StepInputs, StepViews
from light_tts.llm.step_shape import StepShape

# Is shown the inputs of all shapes, the one after the other, before the first step is made.
Prepare = Callable[[Iterable[StepViews]], None]
# Makes a step over inputs of fixed place: what it returns computes the step, with whatever the inputs then hold.
Record = Callable[[StepViews], Callable[[], None]]

_PACKED_SIZES = (16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)


def batch_ladder(most_rows: int) -> list[int]:
    """Recorded batch sizes, ascending up to `most_rows`: padding adds fewer rows than there are, later half at most."""
    sizes = [1, 2, 4, 8, 16, 24, 32]
    while sizes[-1] < most_rows:
        sizes.append(sizes[-1] + max(16, (1 << (sizes[-1].bit_length() - 1)) // 4))
    return [size for size in sizes if size < most_rows] + [most_rows]


def packed_ladder(most_rows: int) -> list[int]:
    """Recorded sizes of steps with prompts in them, ascending up to the first that holds `most_rows`."""
    return list(_PACKED_SIZES[: bisect_left(_PACKED_SIZES, most_rows) + 1])


class PaddedSteps:
    """Used by the engine's thread alone.

    win_size:           ids of the history that the sampler looks back on.
    most_rows:          sequences of a decoding shape, and of a packed one; a bigger step is computed in parts.
    most_packed_rows:   of a step with prompts in it, prompts and decoding rows together.
    most_running:       sequences that may take part in one step.
    """

    def __init__(
        self,
        cache: PagedKVCache,
        record: Record,
        *,
        win_size: int,
        most_rows: int,
        most_packed_rows: int,
        most_running: int,
        most_tokens: int,
        prepare: Prepare | None = None,
    ) -> None:
        device = cache.device
        self._most_rows, self._most_running = most_rows, most_running
        self._decode_sizes, self._packed_sizes = batch_ladder(most_rows), packed_ladder(most_packed_rows)
        self._table = SequenceTable(
            most_pages=-(-most_tokens // cache.block_tokens), win_size=win_size, zero_page=cache.zero_page
        )
        # Two halves in turn: a step reads what the last one drew while it leaves its own ids.
        self._drawn = torch.zeros(2 * most_running + 1, dtype=torch.int64, device=device)
        self._host_drawn = torch.zeros(2 * most_running, dtype=torch.int64, pin_memory=device.type == "cuda")
        # A step has been waited for when the one after the next is launched.
        self._ready = [torch.cuda.Event() if device.type == "cuda" else None for _ in range(2)]
        self._half = 0
        shapes = [*map(self._packed_shape, self._packed_sizes), *map(StepShape.decoding, self._decode_sizes)]
        self._inputs = StepInputs(
            shapes,
            self._table,
            self._drawn,
            block_tokens=cache.block_tokens,
            dump_slot=cache.dump_slot,
        )
        # The largest first: the others find their memory in what it leaves behind.
        shapes.sort(reverse=True)
        if prepare is not None:
            prepare(self._padding_only(shape) for shape in shapes)
        self._replays = {shape: record(self._padding_only(shape)) for shape in shapes}

    @property
    def num_shapes(self) -> int:
        """Recorded shapes."""
        return len(self._replays)

    def launch(self, plan: StepPlan) -> PendingDraws:
        """Begin to compute a step whose sequences all `runs_ahead`."""
        self._half ^= 1
        begin = target = self._half * self._most_running
        drawing: list[Chunk] = []
        ahead, parts = self._parts(plan)
        for number, part in enumerate(parts):
            rows = NO_AHEAD_ROWS if number else ahead
            shape = self._shape_of(rows, part)
            target += self._inputs.fill(part, shape, target, rows)
            self._replays[shape]()
            drawing += part if shape.num_tiles == 0 else [chunk for chunk in part if chunk.samples]
        host = self._host_drawn[begin:target]
        host.copy_(self._drawn[begin:target], non_blocking=True)
        ready = self._ready[self._half]
        if ready is not None:
            ready.record()
        return PendingDraws(drawing, host, ready, ahead)

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        self._table.forget(sequence)
        self._inputs.forget(sequence)

    def note_codes(self, sequences: tuple[Sequence, ...], codes: list[int]) -> None:
        """Codes that were drawn after rows which were ahead (see `AheadRows`)."""
        self._inputs.note_codes(sequences, codes)

    def _padding_only(self, shape: StepShape) -> StepViews:
        """Inputs of a step without a sequence in it."""
        self._inputs.fill([], shape, 0)
        return self._inputs.views(shape)

    def _packed_shape(self, num_rows: int) -> StepShape:
        return StepShape.packed(num_rows, self._most_rows)

    def _shape_of(self, ahead: AheadRows, part: list[Chunk]) -> StepShape:
        """The smallest shape that holds the part."""
        num_ahead = len(ahead.sequences)
        num_rows = num_ahead + sum(chunk.num_rows for chunk in part)
        if num_rows == num_ahead + len(part) and all(chunk.samples for chunk in part):
            return StepShape.decoding(self._decode_sizes[bisect_left(self._decode_sizes, num_rows)])
        return self._packed_shape(self._packed_sizes[bisect_left(self._packed_sizes, num_rows)])

    def _parts(self, plan: StepPlan) -> tuple[AheadRows, list[list[Chunk]]]:
        """Rows of those that decode together, for the first part, and the chunks of each part."""
        sizes = {"most_sequences": self._most_rows, "most_rows": self._packed_sizes[-1]}
        num_ahead = len(plan.ahead.sequences)
        if num_ahead <= min(sizes.values()):
            return plan.ahead, parts_of(plan.chunks, **sizes, num_ahead=num_ahead)
        return NO_AHEAD_ROWS, parts_of(plan.as_chunks(), **sizes)


def parts_of(chunks: list[Chunk], *, most_sequences: int, most_rows: int, num_ahead: int = 0) -> list[list[Chunk]]:
    """Cut a step into parts of at most so many chunks and rows, decoding rows first; a long chunk is cut as well.

    num_ahead:  rows that the first part has besides, each of another sequence.
    """
    parts: list[list[Chunk]] = [[]]
    room, places = most_rows - num_ahead, most_sequences - num_ahead
    for whole in sorted(chunks, key=_is_long):
        chunk = whole
        while True:
            if not room or not places:
                parts.append([])
                room, places = most_rows, most_sequences
            if chunk.num_rows <= room:
                break
            parts[-1].append(chunk._replace(num_rows=room, samples=False))
            chunk = chunk._replace(start=chunk.start + room, num_rows=chunk.num_rows - room)
            room = 0
        parts[-1].append(chunk)
        room, places = room - chunk.num_rows, places - 1
    return parts


def _is_long(chunk: Chunk) -> bool:
    return chunk.num_rows > 1
