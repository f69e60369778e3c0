"""A listener who plays from the first audio on and hears silence whenever the next piece is late. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

TOLERANCE_S = 0.02  # what the buffer of a sound card hides


@dataclass(frozen=True)
class Playback:
    """How one answer sounded.

    start_s:    when the first audio arrived.
    end_s:      when the last sample had been played.
    underruns:  waits longer than the tolerance.
    late_s:     seconds of silence in those waits.
    """

    start_s: float
    end_s: float
    underruns: int
    late_s: float


def play(arrivals: Iterable[tuple[float, float]], tolerance_s: float = TOLERANCE_S) -> Playback | None:
    """Play pieces of audio as they come; None when there is no audio at all.

    arrivals: (when it arrived, seconds of audio in it) in order of arrival; pieces without audio are skipped.
    """
    start_s: float | None = None
    end_s = late_s = 0.0
    underruns = 0
    for arrived_s, audio_s in arrivals:
        if audio_s <= 0.0:
            continue
        if start_s is None:
            start_s = end_s = arrived_s
        wait_s = arrived_s - end_s
        if wait_s > tolerance_s:
            underruns += 1
            late_s += wait_s
        end_s = max(end_s, arrived_s) + audio_s
    return None if start_s is None else Playback(start_s, end_s, underruns, late_s)
