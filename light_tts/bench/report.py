"""A measurement as JSON for programs and as a table for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from light_tts.bench.load import LoadPlan, LoadResult
from light_tts.bench.summary import Spread, Summary, summarise


@dataclass(frozen=True)
class Run:
    """One level of load and what came of it."""

    plan: LoadPlan
    result: LoadResult
    summary: Summary

    @classmethod
    def of(cls, plan: LoadPlan, result: LoadResult) -> Run:
        """Add up a result."""
        return cls(plan, result, summarise(result.rows, result.client_lag_s))


def as_json(runs: Sequence[Run], circumstances: dict[str, Any]) -> dict[str, Any]:
    """Everything that was measured, row by row.

    circumstances: command, machine, target ...: what is needed to make the measurement again.
    """
    described = [
        {
            "load": asdict(run.plan),
            "summary": asdict(run.summary),
            "requests": [asdict(row) for row in run.result.rows],
        }
        for run in runs
    ]
    rounded: dict[str, Any] = _rounded(circumstances | {"runs": described})
    return rounded


def write_json(path: Path, runs: Sequence[Run], circumstances: dict[str, Any]) -> None:
    """Write `as_json` to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(runs, circumstances), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    # Microseconds: below the clock's own noise, and half the size of the file.
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def table(runs: Sequence[Run]) -> list[list[str]]:
    """Rows of cells, the heading first: one column of names, one for each run."""
    columns = [_cells(run) for run in runs]
    names = list(dict.fromkeys(name for cells in columns for name in cells))
    heading = ["", *(run.plan.label for run in runs)]
    return [heading, *([name, *(cells.get(name, "-") for cells in columns)] for name in names)]


def _cells(run: Run) -> dict[str, str]:
    summary = run.summary
    cells = {"requests ok": f"{summary.requests_ok} of {summary.requests}"}
    cells |= _percentile_cells("first audio", summary.first_audio_s, 1000.0, "ms", "{:.0f}")
    cells["leading silence p50, ms"] = _one(summary.leading_silence_s, "p50", 1000.0, "{:.0f}")
    cells |= _percentile_cells("total", summary.total_s, 1.0, "s", "{:.2f}")
    cells["RTF mean"] = _one(summary.rtf, "mean", 1.0, "{:.3f}")
    cells["RTF p99"] = _one(summary.rtf, "p99", 1.0, "{:.3f}")
    cells["audio s per s"] = f"{summary.audio_s_per_s:.2f}"
    cells["requests per s"] = f"{summary.requests_per_s:.2f}"
    cells["in flight, mean (peak)"] = f"{summary.mean_in_flight:.1f} ({summary.peak_in_flight})"
    if summary.requests_played:
        cells["requests with underruns"] = f"{summary.requests_underrun} of {summary.requests_played}"
        cells["underruns (seconds late)"] = f"{summary.underruns} ({summary.late_s:.2f})"
    cells |= {f"failed: {kind}": str(count) for kind, count in summary.errors.items()}
    cells["client lag p99, ms"] = f"{summary.client_lag_p99_s * 1000.0:.1f}"
    return cells


def _percentile_cells(name: str, spread: Spread | None, scale: float, unit: str, style: str) -> dict[str, str]:
    return {f"{name} {point}, {unit}": _one(spread, point, scale, style) for point in ("p50", "p90", "p95", "p99")}


def _one(spread: Spread | None, point: str, scale: float, style: str) -> str:
    return "-" if spread is None else style.format(getattr(spread, point) * scale)


def print_table(runs: Sequence[Run], file: TextIO | None = None) -> None:
    """Print the table, with rich where it is installed (a bare GPU machine may lack it)."""
    heading, *rows = table(runs)
    file = file or sys.stdout
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading))]
        for name, *cells in [heading, *rows]:
            aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            print("  ".join([name.ljust(widths[0]), *aligned]).rstrip(), file=file)
        return
    drawn = Table(heading[0])
    for label in heading[1:]:
        drawn.add_column(label, justify="right")
    for row in rows:
        drawn.add_row(*row)
    Console(file=file).print(drawn)
