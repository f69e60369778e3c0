"""How a call is made up: how many hops share it, and how large they are. Pure arithmetic over plain data.

All hops of a call are padded to the longest, and their number to the next one of the ladder (`row_ladder.py`); so hops
grow up to one length, and those that fill it share a call.

A long call makes more audio per second, and keeps whoever comes meanwhile waiting for longer. So a call is as short as
it may be; but it has to make as much audio as listeners hear while it lasts, or the streams fall behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from light_tts.acoustic.candidate import Candidate, Pick
from light_tts.acoustic.row_ladder import ROWS
from light_tts.acoustic.stage_costs import CostTable
from light_tts.types import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

BACKLOG_BLOCK_S = 0.3  # the longest call of several hops, where there is more to do than time, or nobody to listen
WORTH_WAITING = 1.05  # a longer call must do so much more per second
HEADROOM = 1.15  # how much more is to be made than is heard: neither arrivals nor estimates are even
DRAIN_CALLS = 20  # of one chunk, in whose time what could be made already shall be
_MOST_LENGTHS = 6  # that are tried
_MOST_CALLS = 4  # of the queue's head that are looked at
_FRAME_S = SAMPLES_PER_FRAME / SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Shape:
    """One way to make up a call: the first `rows` of the queue, each as long as it gets within `frames`.

    call_s:    what it takes.
    made_s:    audio that it makes; `played_s` of it for streams that have started.
    """

    queue: Sequence[Candidate]
    rows: int
    frames: int
    call_s: float
    made_s: float
    played_s: float

    @property
    def picks(self) -> tuple[Pick, ...]:
        """Its hops."""
        return tuple(Pick(each.key, each.within(self.frames)[0]) for each in self.queue[: self.rows])


def shapes(
    queue: Sequence[Candidate], costs: CostTable, *, num_urgent: int, least_rows: int, max_batch: int
) -> list[Shape]:
    """Calls with at least the first `least_rows` of the queue, the shortest first.

    num_urgent:  the first ones of the queue, which keep their order; others ride along, first those whose streams end
                 with it, then those who fill their row.
    """
    queue = queue[: num_urgent + _MOST_CALLS * max_batch]
    found: list[Shape] = []
    chunk_frames = queue[0].chunk_frames
    for frames in _lengths(queue, least_rows):
        fitting = _in_turn(queue[:num_urgent], frames)
        riders = [each for each in queue[num_urgent:] if each.frames <= frames]
        riders.sort(key=lambda each: _gain(each, frames, chunk_frames), reverse=True)
        fitting = [*fitting, *riders][:max_batch]
        made = [each.within(frames)[1] - each.again_frames for each in fitting]
        played = [count if each.is_started else 0 for count, each in zip(made, fitting, strict=True)]
        made_s, played_s = ([_FRAME_S * total for total in accumulate(each)] for each in (made, played))
        for rows in _unpadded(least_rows, len(fitting)):
            call_s = costs.estimate_s(rows, frames)
            found.append(Shape(fitting, rows, frames, call_s, made_s[rows - 1], played_s[rows - 1]))
    return sorted(found, key=lambda shape: (shape.call_s, -shape.made_s))


def _gain(rider: Candidate, frames: int, chunk_frames: int) -> tuple[bool, int]:
    """What speaks for a rider in a call of so many frames: streams that end leave, others are served again and again.

    Until then each keeps its states; of those that find no room for them, every hop computes all again.
    """
    return rider.ends_within(frames), -(-min(rider.most_frames, frames) // chunk_frames)


def _in_turn(urgent: Sequence[Candidate], frames: int) -> list[Candidate]:
    """Those that are no longer; nobody's first audio goes before that of one who came earlier."""
    fitting, is_passed_over = [], False
    for each in urgent:
        if each.frames > frames:
            is_passed_over |= not each.is_started
        elif each.is_started or not is_passed_over:
            fitting.append(each)
    return fitting


def _lengths(queue: Sequence[Candidate], least_rows: int) -> list[int]:
    """Frames to which hops may grow, whole chunks."""
    chunk = queue[0].chunk_frames
    least = -(-max(each.frames for each in queue[:least_rows]) // chunk)
    most = max(least, *(-(-each.most_frames // chunk) for each in queue))
    step = -(-(most - least + 1) // _MOST_LENGTHS)
    return [chunk * length for length in range(least, most + 1, step)]


def _unpadded(least: int, most: int) -> Iterator[int]:
    """Numbers of rows that are not padded, and all."""
    yield from (rows for rows in ROWS if least <= rows < most)
    yield most


def shortest(ways: Sequence[Shape], wanted: float) -> Shape:
    """The shortest call that makes as much as is wanted per second; else the one that makes most."""
    return next((way for way in ways if _is_enough(way, wanted)), None) or fullest(ways)


def calmest(ways: Sequence[Shape], wanted: float) -> Shape:
    """The call that keeps newcomers waiting least for the audio that it makes, if it makes enough of it.

    One who comes at any moment meets a call with a chance that grows with its length, and waits for half of it.
    """
    enough = [way for way in ways if _is_enough(way, wanted)]
    return min(enough, key=lambda way: way.call_s**2 / way.made_s) if enough else fullest(ways)


def fullest(ways: Sequence[Shape]) -> Shape:
    """The call that makes most audio per second, of at most BACKLOG_BLOCK_S if there is more than one hop in it."""
    best = ways[0]
    for way in ways:
        is_allowed = way.rows == 1 or way.call_s <= BACKLOG_BLOCK_S
        if is_allowed and way.made_s * best.call_s > WORTH_WAITING * best.made_s * way.call_s:
            best = way
    return best


def roomiest(ways: Sequence[Shape], limit_s: float, num_urgent: int = 0) -> Shape:
    """The call that serves most of the urgent hops, and then makes most, in so much time; else the shortest."""
    short = [way for way in ways if way.call_s <= limit_s]
    return max(short, key=lambda way: (min(way.rows, num_urgent), way.made_s), default=ways[0])


def demand(started: Sequence[Candidate], num_playing: int, costs: CostTable) -> float:
    """Seconds of audio per second that streams need which have started: what is heard, and what waits to be made."""
    if not started:
        return HEADROOM * num_playing
    waiting = sum(each.most_frames - each.again_frames for each in started)
    drain_s = DRAIN_CALLS * costs.estimate_s(1, started[0].chunk_frames)
    return HEADROOM * num_playing + waiting * _FRAME_S / drain_s


def _is_enough(way: Shape, wanted: float) -> bool:
    return way.played_s >= wanted * way.call_s
