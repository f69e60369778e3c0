"""From rows to figures: percentiles, throughput, underruns, failures. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from light_tts.bench.load import RequestRow


@dataclass(frozen=True)
class Spread:
    """A distribution in six numbers. Percentiles interpolate linearly between the two nearest values."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None when there are no values."""
        if not values:
            return None
        p50, p90, p95, p99 = (float(value) for value in np.percentile(values, (50, 90, 95, 99)))
        return cls(float(np.mean(values)), p50, p90, p95, p99, float(max(values)))


@dataclass(frozen=True)
class Summary:
    """The figures of one run. Distributions are over the requests that went well; times are seconds.

    wall_s:               from the first request due to the end of the last.
    first_audio_s:        from the moment a request was due to its first sample.
    leading_silence_s:    silence in the audio before the first sound; a listener waits for both.
    rtf:                  total time over seconds of audio, per request; below 1 is faster than speech.
    audio_s_per_s:        seconds of audio of all listeners per second of wall time.
    requests_per_s:       requests that went well per second of wall time.
    mean_in_flight:       requests under way, averaged over the wall time.
    requests_underrun:    of the `requests_played`, those whose player ran dry at least once.
    errors:               kind of failure -> how many.
    client_lag_p99_s:     how late the load generator itself ran; of the order of a millisecond when it is healthy.
    """

    requests: int
    requests_ok: int
    wall_s: float
    first_audio_s: Spread | None
    total_s: Spread | None
    rtf: Spread | None
    leading_silence_s: Spread | None
    audio_s: float
    audio_s_per_s: float
    requests_per_s: float
    mean_in_flight: float
    peak_in_flight: int
    requests_played: int
    requests_underrun: int
    underruns: int
    late_s: float
    errors: dict[str, int]
    sent_late_s: Spread | None
    client_lag_p99_s: float


def summarise(rows: Sequence[RequestRow], client_lag_s: Sequence[float] = ()) -> Summary:
    """Add up the rows of one run."""
    good = [row for row in rows if row.error is None]
    played = [row for row in good if row.underruns is not None]
    wall_s = max((row.due_s + row.total_s for row in rows), default=0.0) - min((row.due_s for row in rows), default=0.0)
    audio_s = sum(row.audio_s for row in good)
    per_second = 1.0 / wall_s if wall_s > 0 else 0.0
    return Summary(
        requests=len(rows),
        requests_ok=len(good),
        wall_s=wall_s,
        first_audio_s=Spread.of([row.first_audio_s for row in good if row.first_audio_s is not None]),
        total_s=Spread.of([row.total_s for row in good]),
        rtf=Spread.of([row.total_s / row.audio_s for row in good if row.audio_s]),
        leading_silence_s=Spread.of([row.leading_silence_s for row in good]),
        audio_s=audio_s,
        audio_s_per_s=audio_s * per_second,
        requests_per_s=len(good) * per_second,
        mean_in_flight=sum(row.total_s for row in rows) * per_second,
        peak_in_flight=_peak_in_flight(rows),
        requests_played=len(played),
        requests_underrun=sum(1 for row in played if row.underruns),
        underruns=sum(row.underruns or 0 for row in played),
        late_s=sum(row.late_s or 0.0 for row in played),
        errors=dict(Counter(row.error for row in rows if row.error is not None).most_common()),
        sent_late_s=Spread.of([row.sent_late_s for row in rows]),
        client_lag_p99_s=float(np.percentile(client_lag_s, 99)) if client_lag_s else 0.0,
    )


def _peak_in_flight(rows: Sequence[RequestRow]) -> int:
    # At one and the same moment an end sorts before a beginning: a worker's next request is no second one.
    events = sorted([(row.due_s + row.total_s, -1) for row in rows] + [(row.due_s, 1) for row in rows])
    running = peak = 0
    for _, change in events:
        running += change
        peak = max(peak, running)
    return peak
