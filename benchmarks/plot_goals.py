"""Draws the figures of `gpu_goals.py` beside what is asked of them.

python benchmarks/plot_goals.py -o benchmarks/results/gpu-goals.svg

A bar is how many times better a figure is than "pass" (the line at 1); the mark is the goal. On a logarithmic scale.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).resolve().parent / "results"
WIDTH, ROW, LEFT, TOP = 900, 26, 250, 58
LEAST, MOST = 1 / 16, 8.0
GOOD, SHORT = "#2f7d4f", "#b5532d"


class Figure(NamedTuple):
    """One line of the table: where it is in the file, whether less is better, what is asked."""

    label: str
    run: str
    field: str
    unit: str
    less_is_better: bool
    passes: float
    goal: float


def figures(idle: tuple[float, float], at_20: tuple[float, float], at_100: tuple[float, float], listeners: int,
            offline: tuple[float, float], short: tuple[int, float]) -> list[Figure]:  # fmt: skip
    """The figures of one generation."""
    (rate, short_ms), heard = short, f"{listeners} listeners"
    return [
        Figure("first audio, idle, p50", "idle", "first_audio_s.p50", "ms", True, *idle),
        Figure("first audio p95, 20 requests/s", "open 20/s", "first_audio_s.p95", "ms", True, *at_20),
        Figure("first audio p95, 100 requests/s", "open 100/s", "first_audio_s.p95", "ms", True, *at_100),
        Figure(f"first audio p99, {heard}", heard, "first_audio_s.p99", "ms", True, 300, 300),
        Figure("whole answers, audio s/s", "offline, 256 at once", "audio_s_per_s", "", False, *offline),
        Figure(f"short texts, {rate}/s, p95", f"one second {rate}/s", "total_s.p95", "ms", True, 400, short_ms),
    ]  # fmt: skip


ASKED = {
    "cosyvoice2": figures((100, 35), (200, 60), (500, 100), 150, (350, 600), (120, 150)),
    "cosyvoice3": figures((100, 40), (250, 80), (700, 200), 80, (250, 350), (80, 150)),
}


def value_of(report: dict[str, Any], figure: Figure) -> float:
    """In the figure's unit."""
    run = next(run for name, run in report["runs"].items() if name.startswith(figure.run + ", first hop"))
    for name in figure.field.split("."):
        run = run[name]
    return run * 1000.0 if figure.unit == "ms" else run


def place(ratio: float) -> float:
    share = math.log(min(MOST, max(LEAST, ratio)) / LEAST) / math.log(MOST / LEAST)
    return LEFT + share * (WIDTH - LEFT - 150)


def draw() -> str:
    parts: list[str] = []
    y = TOP
    for family, asked in ASKED.items():
        report = json.loads((RESULTS / f"gpu-goals-{family}.json").read_text())
        parts.append(f'<text x="10" y="{y}" font-weight="bold">{family}</text>')
        y += 8
        for figure in asked:
            value = value_of(report, figure)
            ratio, goal = (
                figure.passes / number if figure.less_is_better else number / figure.passes
                for number in (value, figure.goal)
            )
            x, one, middle = place(ratio), place(1.0), y + ROW / 2
            colour = GOOD if ratio >= 1.0 else SHORT
            parts.append(f'<text x="10" y="{middle + 4}">{figure.label}</text>')
            parts.append(
                f'<rect x="{min(x, one):.1f}" y="{y + 5}" width="{max(1.0, abs(x - one)):.1f}" height="{ROW - 10}" '
                f'fill="{colour}"/>'
            )
            parts.append(f'<circle cx="{place(goal):.1f}" cy="{middle}" r="5" fill="none" stroke="#222"/>')
            parts.append(f'<text x="{WIDTH - 130}" y="{middle + 4}">{value:.0f} {figure.unit} ({ratio:.1f} x)</text>')
            y += ROW
        y += 26
    line = place(1.0)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" font-family="sans-serif" font-size="13">'
        f'<rect width="{WIDTH}" height="{y}" fill="white"/>'
        f'<text x="10" y="20" font-weight="bold">One H200, full-size random weights: times better than "pass"</text>'
        f'<text x="10" y="38" fill="#555">the line is pass, the ring is the goal; logarithmic</text>'
        f'<line x1="{line:.1f}" x2="{line:.1f}" y1="{TOP}" y2="{y - 20}" stroke="#888"/>'
    )
    return head + "".join(parts) + "</svg>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "gpu-goals.svg")
    parser.parse_args().output.write_text(draw())


if __name__ == "__main__":
    main()
