"""A hop that can run, as the planner sees it, and one that it has chosen. Plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

BUFFERED_MAX_WAIT_S = 2.0  # a buffered request that waited this long counts as a new first chunk


class Candidate(NamedTuple):
    """One runnable hop.

    key:           the caller's handle.
    frames:        mel frames that the smallest possible hop computes.
    waiting_s:     since the run was last served; of a run that never was, since it was opened.
    unplayed_s:    audio sent but not yet played, negative when the listener has run dry; None before the first audio.
    due_s:         how long the hop has been runnable.
    more_chunks:   chunks that the hop could take along.
    chunk_frames:  frames that each of them adds.
    last_frames:   frames that the last of them adds; None: as many as the others. The tail of a text may be any length.
    again_frames:  of `frames`, those that make no audio: the prompt's, and what was computed before and not kept.
    can_grow:      waiting for tokens is worth it: the hop is smaller than it would like to be.
    hold_s:        how much longer to wait for the end of the text, whose tail would join this hop.
    is_buffered:   nobody listens until the end (not streamed).
    ends:          with all of `more_chunks` it is the last hop of its stream, whose states are free then.
    """

    key: int
    frames: int
    waiting_s: float
    unplayed_s: float | None
    due_s: float = 0.0
    more_chunks: int = 0
    chunk_frames: int = 50
    last_frames: int | None = None
    again_frames: int = 0
    can_grow: bool = False
    hold_s: float = 0.0
    is_buffered: bool = False
    ends: bool = False

    @property
    def is_started(self) -> bool:
        """Somebody is listening."""
        return self.unplayed_s is not None and not self.is_buffered

    @property
    def dry_s(self) -> float:
        """When the listener runs dry; infinite without one."""
        return self.unplayed_s if self.unplayed_s is not None and not self.is_buffered else math.inf

    @property
    def age_s(self) -> float:
        """How long it has been waiting for its first audio, from where it competes with first chunks."""
        return self.waiting_s - (BUFFERED_MAX_WAIT_S if self.is_buffered else 0.0)

    @property
    def most_frames(self) -> int:
        """Frames of the hop with all the chunks that it could take along."""
        if not self.more_chunks:
            return self.frames
        last = self.chunk_frames if self.last_frames is None else self.last_frames
        return self.frames + (self.more_chunks - 1) * self.chunk_frames + last

    def ends_within(self, frames: int) -> bool:
        """True when its stream is over after a hop of at most so many frames."""
        return self.ends and self.most_frames <= frames

    def within(self, frames: int) -> tuple[int, int]:
        """(chunks, frames) of the largest hop of at most so many frames; of the smallest one when that is longer."""
        if frames >= self.most_frames:
            return self.more_chunks, self.most_frames
        chunks = max(0, min((frames - self.frames) // self.chunk_frames, self.more_chunks - 1))
        return chunks, self.frames + chunks * self.chunk_frames


@dataclass(frozen=True)
class Pick:
    """A hop to run, with so many chunks more than the smallest one."""

    key: int
    more_chunks: int = 0
