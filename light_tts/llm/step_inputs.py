"""What a recorded step must know, packed into one buffer of fixed place on the device.

A step is padded to a shape that was recorded. A padding row sees nothing but itself and leaves its key and value in a
page that nobody reads; a padding draw leaves its id where nobody looks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from light_tts.kernels.draw import DrawRows
from light_tts.kernels.embedding import RowInputs
from light_tts.kernels.packed_attention import PackedPages
from light_tts.kernels.paged_decode import DecodePages
from light_tts.llm.decoding_group import NO_AHEAD_ROWS, AheadRows
from light_tts.llm.host_inputs import HostInputs
from light_tts.llm.scheduler import Chunk
from light_tts.llm.sequence import Sequence
from light_tts.llm.sequence_table import SequenceTable
from light_tts.llm.step_columns import ColumnsMaker
from light_tts.llm.step_shape import BLOCKED_EDGES, StepShape, places_of


class StepViews(NamedTuple):
    """Inputs of a step of N rows and S draws, as views of the buffer on the device.

    selected:  [S] int64 rows after which an id is drawn; None: after every row.
    """

    rows: RowInputs
    pages: DecodePages | PackedPages
    selected: Tensor | None
    draws: DrawRows


class StepInputs:
    """Two buffers on the host, used in turn, and their twin on the device. Used by the engine's thread alone.

    shapes:     that will be filled.
    drawn:      ids that the device has drawn; the last place takes those of padding draws.
    dump_slot:  where padding rows leave their keys and values.
    """

    def __init__(
        self,
        shapes: list[StepShape],
        table: SequenceTable,
        drawn: Tensor,
        *,
        block_tokens: int,
        dump_slot: int,
    ) -> None:
        self._drawn, self._win_size = drawn, table.win_size
        self._columns = ColumnsMaker(table)
        device = drawn.device
        length = max(places_of(s, table.win_size).table + s.num_draws * table.most_pages for s in shapes)
        is_cuda = device.type == "cuda"
        self._hosts = [torch.zeros(length, dtype=torch.int64, pin_memory=is_cuda) for _ in range(2)]
        self._writers = [
            HostInputs(host.numpy(), table, block_tokens=block_tokens, dump_slot=dump_slot, dump_draw=len(drawn) - 1)
            for host in self._hosts
        ]
        self._device = torch.zeros(length, dtype=torch.int64, device=device)
        self._sent = [torch.cuda.Event() if is_cuda else None for _ in range(2)]
        self._turn = 0

    def views(self, shape: StepShape) -> StepViews:
        """Inputs of a step of this shape on the device."""
        places, buffer = places_of(shape, self._win_size), self._device
        rows, row_sources, positions, slots = buffer[places.rows].view(4, -1)
        sources, targets, steps = buffer[places.draws].view(3, -1)
        fixed = buffer[places.fixed].view(-1, 4)
        table, width = buffer[places.table :], buffer[:1]
        pages: DecodePages | PackedPages = DecodePages(positions, slots, table, width)
        if shape.num_tiles:
            pages = PackedPages(slots, buffer[places.tiles].view(-1, 4), table, width)
        return StepViews(
            rows=RowInputs(rows, row_sources, positions, self._drawn),
            pages=pages,
            selected=buffer[places.selected] if shape.num_tiles else None,
            draws=DrawRows(
                sources=sources,
                targets=targets,
                keys=fixed[:, 0],
                steps=steps,
                top_k=fixed[:, 1],
                greedy=fixed[:, 2],
                numbers=fixed.view(torch.float32)[:, 6:],
                blocked=buffer[places.blocked].view(-1, BLOCKED_EDGES),
                window=buffer[places.window].view(-1, self._win_size),
                drawn=self._drawn,
            ),
        )

    def fill(self, chunks: list[Chunk], shape: StepShape, first_target: int, ahead: AheadRows = NO_AHEAD_ROWS) -> int:
        """Write rows and chunks, chunks of one row first, padded to `shape`, and send them to the device.

        first_target:  place of the first drawn id; the others follow. Returns how many there are.
        """
        self._turn ^= 1
        turn = self._turn
        sent = self._sent[turn]
        # Waiting gives the interpreter to other threads, who keep it for a while; mostly there is nothing to wait for.
        if sent is not None and not sent.query():
            sent.synchronize()
        columns, writer = self._columns.columns_of(ahead, chunks), self._writers[turn]
        if chunks or not ahead.sequences:
            end, num_draws = writer.write(columns, shape, first_target), int(columns.samples.sum())
        else:
            group = self._columns.group
            end = writer.write_group(columns, shape, first_target, group=group, step=ahead.step)
            num_draws = len(ahead.sequences)
        self._device[:end].copy_(self._hosts[turn][:end], non_blocking=True)
        if sent is not None:
            sent.record()
        return num_draws

    def note_codes(self, sequences: tuple[Sequence, ...], codes: list[int]) -> None:
        """See `PaddedSteps.note_codes`."""
        self._columns.note_codes(sequences, codes)

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        self._columns.forget(sequence)
