"""From rows to figures."""

import pytest

from light_tts.bench.load import RequestRow
from light_tts.bench.summary import Spread, summarise


def row(due_s: float, total_s: float, **changes: object) -> RequestRow:
    made = RequestRow(0, "hello", 0, due_s, first_audio_s=0.1, total_s=total_s, audio_s=2.0, underruns=0, late_s=0.0)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_rates_are_by_wall_time_and_count_only_what_went_well() -> None:
    rows = [row(1.0, 2.0), row(2.0, 3.0), row(3.0, 0.5, error="timeout", first_audio_s=None, audio_s=9.0)]
    summary = summarise(rows)
    assert (summary.requests, summary.requests_ok, summary.errors) == (3, 2, {"timeout": 1})
    assert summary.wall_s == 4.0
    assert summary.audio_s_per_s == 1.0
    assert summary.requests_per_s == 0.5
    assert summary.rtf is not None
    assert summary.rtf.mean == pytest.approx(1.25)
    assert summary.mean_in_flight == pytest.approx(5.5 / 4.0)


def test_underruns_are_those_of_played_answers() -> None:
    rows = [
        row(0.0, 1.0, underruns=3, late_s=0.75),
        row(0.0, 1.0),
        row(0.0, 1.0, underruns=None, late_s=None),
    ]
    summary = summarise(rows)
    assert (summary.requests_played, summary.requests_underrun, summary.underruns) == (2, 1, 3)
    assert summary.late_s == 0.75


def test_a_worker_that_goes_on_at_once_is_one_request_in_flight() -> None:
    assert summarise([row(0.0, 1.0), row(1.0, 1.0)]).peak_in_flight == 1
    assert summarise([row(0.0, 1.5), row(1.0, 1.0)]).peak_in_flight == 2


def test_percentiles() -> None:
    spread = Spread.of([float(value) for value in range(101)])
    assert spread == Spread(mean=50.0, p50=50.0, p90=90.0, p95=95.0, p99=99.0, max=100.0)
    assert Spread.of([]) is None


def test_no_rows_are_no_figures() -> None:
    summary = summarise([])
    assert (summary.requests, summary.wall_s, summary.audio_s_per_s, summary.first_audio_s) == (0, 0.0, 0.0, None)
