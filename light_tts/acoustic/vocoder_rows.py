"""Rows of one vocoder call on a GPU: what is due of each stream, and which rows run together."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, cat

# Recorded sizes. Streamed pieces have 20 to 58 frames (symmetric) or 27 to 207 (causal), whole utterances more.
FRAME_LADDER = (24, 32, 48, 64, 96, 128, 160, 208, 256, 384, 512, 768, 1024, 1536)
ROW_LADDER = (1, 2, 4, 8, 16, 32, 64)
MAX_PADDED = 1.6  # rows are padded to the longest; more padding than this, and they run apart
LENGTH_STEP = 256  # above the ladder


@dataclass(eq=False)
class SlotStream:
    """One utterance on its way through the vocoder; what it carries on the device is in a slot of the pool.

    give_back:  takes the slot when the stream is closed.
    pending:    mel [80, M] on the device that is not enough for a call yet.
    received, pitched, generated:  frames that have passed each station (causal networks).
    piece:      pieces decoded.
    """

    seed: int
    give_back: Callable[[int], None]
    slot: int | None = None
    pending: list[Tensor] = field(default_factory=list)
    received: int = 0
    pitched: int = 0
    generated: int = 0
    piece: int = 0
    is_closed: bool = False
    is_lost: bool = False

    def close(self) -> None:
        """Free what is carried; no more pieces. Harmless when already closed. Any thread."""
        self.is_closed = True
        self.pending = []
        slot, self.slot = self.slot, None
        if slot is not None:
            self.give_back(slot)

    @property
    def num_pending(self) -> int:
        """Frames that wait."""
        return sum(mel.shape[1] for mel in self.pending)


@dataclass(eq=False)
class Row:
    """One stream's part of a call.

    mel:       [80, M] new frames, the pending ones before them.
    frames:    M and the frames that the pool kept.
    integers:  what the step must know; see its columns.
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
    return piece if not stream.pending else cat([*stream.pending, piece], dim=1)


def frame_bucket(frames: int) -> int:
    """Length to which rows of so many frames are padded."""
    if frames > FRAME_LADDER[-1]:
        return -(-frames // LENGTH_STEP) * LENGTH_STEP
    return FRAME_LADDER[bisect_left(FRAME_LADDER, frames)]


def row_bucket(rows: int) -> int:
    """Number of rows to which a call of so many is padded."""
    return ROW_LADDER[bisect_left(ROW_LADDER, rows)]


def groups_of(rows: Sequence[Row], most_frames: int) -> list[list[Row]]:
    """Rows that run together: similar lengths, and not more than `most_frames` frames with all padding."""
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: -row.frames):
        if groups:
            group = groups[-1]
            length, count = frame_bucket(group[0].frames), len(group) + 1
            useful = sum(member.frames for member in group) + row.frames
            fits = count <= ROW_LADDER[-1] and row_bucket(count) * length <= most_frames
            if fits and count * length <= MAX_PADDED * useful + length:
                group.append(row)
                continue
        groups.append([row])
    return groups
