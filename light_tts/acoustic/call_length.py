"""How long a call had better be: how many hops share it, and how large they are. Pure arithmetic over plain data.

A long call makes more audio per second, and keeps whoever comes meanwhile waiting for longer. So a call is as short as
it may be; but it has to make as much audio as listeners hear while it lasts, or the streams fall behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from light_tts.acoustic.stage_costs import CostTable
from light_tts.types import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

BACKLOG_BLOCK_S = 0.3  # the longest call of several hops, where there is more to do than time, or nobody to listen
WORTH_WAITING = 1.05  # a longer call must do so much more per second
HEADROOM = 1.15  # how much more is to be made than is heard: neither arrivals nor estimates are even
DRAIN_S = 3.0  # within which what could be made already shall be
_FRAME_S = SAMPLES_PER_FRAME / SAMPLE_RATE_HZ


class Growing(Protocol):
    """A hop that can run."""

    @property
    def is_started(self) -> bool:
        """Somebody is listening."""

    @property
    def more_chunks(self) -> int:
        """Chunks that it could take along."""

    def frames_with(self, chunks: int) -> int:
        """Mel frames with so many of them."""


class Length(NamedTuple):
    """One way to make up a call: hops, chunks that they take along, how long it takes, how much audio it makes.

    played_s:  of that audio, what is for streams that have started.
    """

    rows: int
    chunks: int
    call_s: float
    made_s: float
    played_s: float


def lengths(queue: Sequence[Growing], costs: CostTable, *, least_rows: int, max_batch: int) -> Iterator[Length]:
    """Calls of the first `least_rows` of the queue or more, then full ones with more and more chunks."""
    most_rows = min(len(queue), max_batch)
    rows = least_rows
    while True:
        rows = min(most_rows, 1 << (rows - 1).bit_length())  # up to there, more of them cost nothing
        yield _length(queue[:rows], 0, costs)
        if rows == most_rows:
            break
        rows += 1
    for chunks in range(1, max(each.more_chunks for each in queue[:rows]) + 1):
        yield _length(queue[:rows], chunks, costs)


def _length(head: Sequence[Growing], chunks: int, costs: CostTable) -> Length:
    frames = [each.frames_with(chunks) for each in head]
    played = sum(count for count, each in zip(frames, head, strict=True) if each.is_started)
    call_s = costs.estimate_s(len(head), max(frames))
    return Length(len(head), chunks, call_s, sum(frames) * _FRAME_S, played * _FRAME_S)


def sustaining_s(ways: Iterable[Length], wanted: float) -> float:
    """Of the shortest call that makes what so many listeners hear meanwhile; else of the one that makes most."""
    seen = []
    for way in ways:
        if _sustains(way, wanted):
            return way.call_s
        seen.append(way)
    return fullest_s(seen)


def calmest_s(ways: Iterable[Length], wanted: float) -> float:
    """Of the call that keeps newcomers waiting least for the audio that it makes, if it makes enough of it.

    One who comes at any moment meets a call with a chance that grows with its length, and waits for half of it.
    """
    ways = list(ways)
    enough = [way for way in ways if _sustains(way, wanted)]
    if not enough:
        return fullest_s(ways)
    return min(enough, key=lambda way: way.call_s**2 / max(way.made_s, _FRAME_S)).call_s


def fullest_s(ways: Iterable[Length]) -> float:
    """Of the call that makes most audio per second, of at most BACKLOG_BLOCK_S if there is more than one hop in it."""
    best_rate, best_s = 0.0, 0.0
    for way in ways:
        is_allowed = way.rows == 1 or way.call_s <= BACKLOG_BLOCK_S
        if is_allowed and way.made_s > WORTH_WAITING * best_rate * way.call_s:
            best_rate, best_s = way.made_s / way.call_s, way.call_s
    return best_s


def demand(started: Sequence[Growing], num_playing: int) -> float:
    """Seconds of audio per second that streams need which have started: what is heard, and what waits to be made."""
    waiting = sum(each.frames_with(each.more_chunks) for each in started)
    return HEADROOM * num_playing + waiting * _FRAME_S / DRAIN_S


def _sustains(way: Length, wanted: float) -> bool:
    return way.played_s >= wanted * way.call_s
