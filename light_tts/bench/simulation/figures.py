"""What a simulated load came to, in figures, and the search for the largest load that still goes well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from light_tts.bench.player import play
from light_tts.bench.simulation.listeners import Answer, Load
from light_tts.bench.simulation.simulator import Outcome
from light_tts.bench.summary import Spread

_MOST_STREAMS = 4096


@dataclass(frozen=True)
class Figures:
    """Figures of the answers that were asked for after the ramp. Times in seconds.

    answers:             asked for; `unserved` of them were never complete, because everything was far behind.
    answers_underrun:    complete ones whose player ran dry at least once; `late_s`: silence of all of them.
    acoustic_busy, llm_busy:  part of the time in which the stage was at work.
    rows_per_call:       streams served together, on average; `frames_per_row`: mel frames of each.
    """

    answers: int
    unserved: int
    first_audio_s: Spread | None
    answers_underrun: int
    underruns: int
    late_s: float
    audio_s_per_s: float
    acoustic_busy: float
    llm_busy: float
    rows_per_call: float
    frames_per_row: float
    simulated_s: float

    @classmethod
    def of(cls, outcome: Outcome, load: Load) -> Figures:
        """Add up an outcome."""
        counted = [answer for answer in outcome.answers if answer.asked_s >= load.ramp_s]
        served = [answer for answer in counted if answer.ended_s is not None]
        heard = [play(answer.pieces) for answer in served] if load.stream else []
        played = [playback for playback in heard if playback is not None]
        calls, rows = max(1, len(outcome.call_rows)), max(1, sum(outcome.call_rows))
        return cls(
            answers=len(counted),
            unserved=len(counted) - len(served),
            first_audio_s=Spread.of([_first_audio_s(answer) for answer in served]),
            answers_underrun=sum(1 for playback in played if playback.underruns),
            underruns=sum(playback.underruns for playback in played),
            late_s=sum(playback.late_s for playback in played),
            audio_s_per_s=sum(audio_s for answer in outcome.answers for _, audio_s in answer.pieces)
            / max(outcome.end_s, 1e-9),
            acoustic_busy=outcome.acoustic_busy_s / max(outcome.end_s, 1e-9),
            llm_busy=outcome.llm_busy_s / max(outcome.end_s, 1e-9),
            rows_per_call=rows / calls,
            frames_per_row=sum(outcome.call_frames) / rows,
            simulated_s=outcome.end_s,
        )

    def goes_well(self, max_first_audio_s: float) -> bool:
        """Everybody was served without a gap, and all but one in a hundred heard something in time."""
        if self.unserved or self.underruns or self.first_audio_s is None:
            return False
        return self.first_audio_s.p99 <= max_first_audio_s


def find_capacity(goes_well: Callable[[int], bool]) -> int:
    """The largest number of streams that goes well, to within 3 %; 0 when not even one does."""
    good, bad = 0, 1
    while bad <= _MOST_STREAMS and goes_well(bad):
        good, bad = bad, 2 * bad
    while bad - good > max(1, good * 0.03):
        middle = (good + bad) // 2
        if goes_well(middle):
            good = middle
        else:
            bad = middle
    return good


def _first_audio_s(answer: Answer) -> float:
    return answer.pieces[0][0] if answer.pieces else answer.ended_s or 0.0
