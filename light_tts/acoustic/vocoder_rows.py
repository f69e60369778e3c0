"""Rows of one vocoder call on a GPU: what is due of each stream, and which rows run together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, cat, cuda

from light_tts.acoustic.vocoder_pool import Seat
from light_tts.acoustic.vocoder_sizes import MOST_FRAMES, ROWS, SizeLadder, rows_for

MAX_PADDED = 1.6  # rows are padded to the longest; more padding than this, and they run apart


@dataclass(eq=False)
class SlotStream:
    """One utterance on its way through the vocoder; what it carries on the device is in a slot of the pool.

    seat:     its slot, taken when the first piece is decoded.
    pending:  mel [80, M] on the device that is not enough for a call yet.
    received, pitched, generated:  frames that have passed each station (causal networks).
    piece:    pieces decoded.
    """

    seed: int
    seat: Seat
    pending: list[Tensor] = field(default_factory=list)
    received: int = 0
    pitched: int = 0
    generated: int = 0
    piece: int = 0
    is_lost: bool = False

    @property
    def is_closed(self) -> bool:
        """True after `close`."""
        return self.seat.is_closed

    def close(self) -> None:
        """Free what is carried; no more pieces. Harmless when already closed. Any thread."""
        self.seat.close()
        self.pending = []

    @property
    def num_pending(self) -> int:
        """Frames that wait."""
        return sum(mel.shape[1] for mel in self.pending)


@dataclass(eq=False)
class Row:
    """One stream's part of a call.

    mel:       [80, M] new frames, the pending ones before them.
    frames:    M and the frames that the pool kept.
    integers:  what the step must know, beside the slot; see its columns.
    begin, end:  samples of the result that are the stream's new ones.
    """

    stream: SlotStream
    mel: Tensor
    frames: int
    integers: tuple[int, ...]
    begin: int
    end: int
    is_final: bool


def new_mel(stream: SlotStream, piece: Tensor) -> Tensor:
    """The pending frames of a stream and a piece behind them."""
    if not stream.pending:
        return piece
    for mel in stream.pending:
        if mel.is_cuda:  # perhaps made on another stream, which gets its memory back when this one has read it
            mel.record_stream(cuda.current_stream(mel.device))
    return cat([*stream.pending, piece], dim=1)


def groups_of(rows: Sequence[Row], ladder: SizeLadder) -> list[list[Row]]:
    """Rows that run together: similar lengths, and with all padding a size of the ladder or a single long row."""
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: -row.frames):
        if groups:
            group = groups[-1]
            length, count = ladder.length_for(group[0].frames), len(group) + 1
            useful = sum(member.frames for member in group) + row.frames
            fits = count <= ROWS[-1] and rows_for(count) * length <= MOST_FRAMES
            if fits and count * length <= MAX_PADDED * useful + length:
                group.append(row)
                continue
        groups.append([row])
    return groups
