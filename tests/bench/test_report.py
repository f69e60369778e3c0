"""What is shown: JSON, table, picture."""

import io
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_tts.bench.load import LoadPlan, LoadResult, RequestRow
from light_tts.bench.plot import draw, ticks, write_plot
from light_tts.bench.report import Run, print_table, table, write_json

SVG = "{http://www.w3.org/2000/svg}"


def make_run(workers: int, errors: int = 0, good: int = 4) -> Run:
    rows = [
        RequestRow(
            i, "你好", i, float(i), first_audio_s=0.1 + i / 100, total_s=1.0, audio_s=4.0, underruns=0, late_s=0.0
        )
        for i in range(good)
    ]
    rows += [RequestRow(good + i, "x", i, 0.5, total_s=0.1, error="http 503 <busy>") for i in range(errors)]
    return Run.of(LoadPlan(workers=workers, num_requests=good + errors), LoadResult(rows, [0.001, 0.002]))


def test_json_has_every_request_and_how_to_measure_it_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out.json"
    write_json(path, [make_run(1), make_run(8, errors=2)], {"command": "light-tts bench load", "machine": {"cores": 2}})
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["command"] == "light-tts bench load"
    assert [run["load"]["workers"] for run in report["runs"]] == [1, 8]
    assert [len(run["requests"]) for run in report["runs"]] == [4, 6]
    assert report["runs"][1]["summary"]["errors"] == {"http 503 <busy>": 2}
    assert report["runs"][0]["requests"][2]["first_audio_s"] == 0.12
    assert report["runs"][0]["requests"][2]["text"] == "你好"


def test_table_has_a_column_for_each_level() -> None:
    heading, *rows = table([make_run(1), make_run(8, errors=2)])
    cells = {name: values for name, *values in rows}
    assert heading == ["", "1 worker", "8 workers"]
    assert cells["requests ok"] == ["4 of 4", "4 of 6"]
    assert cells["first audio p50, ms"] == ["115", "115"]
    assert cells["RTF mean"] == ["0.250", "0.250"]
    assert cells["failed: http 503 <busy>"] == ["-", "2"]


@pytest.mark.parametrize("has_rich", [True, False])
def test_table_prints_with_and_without_rich(has_rich: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    printed = io.StringIO()
    print_table([make_run(1), make_run(8)], printed)
    line = next(line for line in printed.getvalue().splitlines() if "audio s per s" in line)
    assert line.count("4.00") == 2


def test_a_run_in_which_all_failed_can_be_shown() -> None:
    run = make_run(1, errors=3, good=0)
    print_table([run], io.StringIO())
    ElementTree.fromstring(draw([run]))


def test_plot_is_svg_with_a_mark_for_each_request(tmp_path: Path) -> None:
    write_plot(tmp_path / "plot.svg", [make_run(1), make_run(8, errors=2)])
    drawing = ElementTree.parse(tmp_path / "plot.svg").getroot()
    assert drawing.tag == f"{SVG}svg"
    assert len(drawing.findall(f"{SVG}circle")) == 8
    assert len(drawing.findall(f"{SVG}path")) == 2, "failures"
    assert len(drawing.findall(f"{SVG}polyline")) == 4, "two distributions for each run"
    assert "8 workers" in {text.text for text in drawing.findall(f"{SVG}text")}


@given(st.floats(1e-9, 1e9))
def test_ticks_cover_the_values_in_few_round_steps(largest: float) -> None:
    marks = ticks(largest)
    assert marks[0] == 0.0
    assert marks[-1] >= largest * (1 - 1e-6)
    assert marks[-2] < largest
    assert 3 <= len(marks) <= 9


def test_ticks_of_nothing() -> None:
    assert ticks(0.0) == [0.0, 1.0]
