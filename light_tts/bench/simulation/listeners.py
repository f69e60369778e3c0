"""Who comes when, with how long a text, and what they hear."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from light_tts.bench.load import poisson_arrivals
from light_tts.types import TOKEN_RATE_HZ

Arrivals = Literal["steady", "burst", "poisson"]


@dataclass(frozen=True)
class Load:
    """How listeners come.

    arrivals:   steady: always `streams` of them, each asks again when it has heard its answer; burst: `streams` of them
                at once, and nobody later; poisson: `rate_hz` per second at random moments.
    duration_s: nobody comes later; those who came are served to their end.
    audio_s:    mean length of an answer; lengths are spread evenly from half of it to one and a half.
    stream:     False: buffered answers, which nobody hears before their end.
    """

    arrivals: Arrivals = "steady"
    streams: int = 16
    rate_hz: float = 1.0
    duration_s: float = 60.0
    audio_s: float = 8.0
    stream: bool = True
    seed: int = 0

    @property
    def ramp_s(self) -> float:
        """Time until the load is what it says; answers that were asked for earlier are not counted."""
        return min(self.audio_s, self.duration_s / 2) if self.arrivals == "steady" else 0.0

    def first_arrivals(self) -> Iterator[float]:
        """Moments at which listeners come by themselves, in order."""
        if self.arrivals == "burst":
            return iter([0.0] * self.streams)
        if self.arrivals == "steady":
            return iter([index * self.ramp_s / self.streams for index in range(self.streams)])
        return itertools.takewhile(lambda due_s: due_s < self.duration_s, poisson_arrivals(self.rate_hz, self.seed))

    def lengths(self) -> Iterator[int]:
        """Speech tokens of one answer after the other."""
        draw = random.Random(self.seed + 1)
        while True:
            yield max(1, round(TOKEN_RATE_HZ * self.audio_s * draw.uniform(0.5, 1.5)))


@dataclass
class Answer:
    """What one listener got. `pieces` are (when, seconds of audio), counted from `asked_s`."""

    asked_s: float
    num_tokens: int
    pieces: list[tuple[float, float]] = field(default_factory=list)
    ended_s: float | None = None

    @property
    def first_audio_s(self) -> float | None:
        """From the request to its first audio."""
        return self.pieces[0][0] if self.pieces else None

    def heard_s(self) -> float:
        """When a player that never waits more than it must has played all, on the virtual clock."""
        end_s = 0.0
        for arrived_s, audio_s in self.pieces:
            end_s = max(end_s, arrived_s) + audio_s
        return self.asked_s + end_s
