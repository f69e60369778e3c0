"""A measurement as a picture: SVG written by hand, so that nothing has to be installed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from light_tts.bench.report import Run

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # told apart by everybody
_WIDTH, _PANEL_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 240, 60, 20, 36, 44

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """Points of one run. lines: joined by a line, else each is a dot; crosses mark what failed."""

    colour: str
    points: Sequence[Point]
    lines: bool = True
    crosses: Sequence[Point] = ()


def write_plot(path: Path, runs: Sequence[Run]) -> None:
    """Distribution of first audio and of total time, and first audio over the run, with failures marked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(draw(runs), encoding="utf-8")


def draw(runs: Sequence[Run]) -> str:
    """The SVG document."""
    first, total, over_time = [], [], []
    for number, run in enumerate(runs):
        colour = _COLOURS[number % len(_COLOURS)]
        good = [row for row in run.result.rows if row.error is None]
        first.append(Curve(colour, _distribution([row.first_audio_s or 0.0 for row in good])))
        total.append(Curve(colour, _distribution([row.total_s for row in good])))
        heard = [(row.due_s, row.first_audio_s or 0.0) for row in good]
        failed = [(row.due_s, 0.0) for row in run.result.rows if row.error is not None]
        over_time.append(Curve(colour, heard, lines=False, crosses=failed))
    panels = [
        _panel(0, "Time to first audio", "seconds", "share of requests", first),
        _panel(1, "Total time", "seconds", "share of requests", total),
        _panel(2, "Time to first audio over the run (x: failed)", "due, seconds", "seconds", over_time),
    ]
    height = _PANEL_HEIGHT * len(panels) + 24 * math.ceil(len(runs) / 5) + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>\n'
        + "".join(panels)
        + _legend(runs, _PANEL_HEIGHT * len(panels))
        + "</svg>\n"
    )


def _distribution(values: Sequence[float]) -> list[Point]:
    """The empirical distribution as steps."""
    points: list[Point] = []
    for number, value in enumerate(sorted(values)):
        points += [(value, number / len(values)), (value, (number + 1) / len(values))]
    return points


def ticks(largest: float) -> list[float]:
    """Round numbers from 0 that cover `largest`: steps of 1, 2 or 5 times a power of ten, at most eight."""
    if not largest > 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(largest))
    step = next(factor * power for factor in (0.2, 0.5, 1.0, 2.0) if largest <= 7.0 * factor * power)
    return [number * step for number in range(math.ceil(largest / step - 1e-9) + 1)]


def _panel(number: int, title: str, x_name: str, y_name: str, curves: Sequence[Curve]) -> str:
    points = [point for curve in curves for point in [*curve.points, *curve.crosses]]
    x_ticks, y_ticks = (ticks(max((point[axis] for point in points), default=0.0)) for axis in (0, 1))
    top, left, right = number * _PANEL_HEIGHT + _TOP, _LEFT, _WIDTH - _RIGHT
    bottom = (number + 1) * _PANEL_HEIGHT - _BOTTOM

    def place(point: Point) -> Point:
        return (
            left + point[0] / x_ticks[-1] * (right - left),
            bottom - point[1] / y_ticks[-1] * (bottom - top),
        )

    drawn = [f'<text x="{left}" y="{top - 12}" font-weight="bold">{escape(title)}</text>']
    for tick in x_ticks:
        x, _ = place((tick, 0.0))
        drawn.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="#dddddd"/>')
        drawn.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for tick in y_ticks:
        _, y = place((0.0, tick))
        drawn.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#dddddd"/>')
        drawn.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    drawn.append(f'<text x="{(left + right) / 2}" y="{bottom + 32}" text-anchor="middle">{escape(x_name)}</text>')
    middle = (top + bottom) / 2
    drawn.append(f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{escape(y_name)}</text>')
    for curve in curves:
        drawn += _marks(curve, [place(point) for point in curve.points], [place(point) for point in curve.crosses])
    return "\n".join(drawn) + "\n"


def _marks(curve: Curve, points: Sequence[Point], crosses: Sequence[Point]) -> list[str]:
    if curve.lines:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        marks = [f'<polyline points="{path}" fill="none" stroke="{curve.colour}" stroke-width="1.5"/>'] if path else []
    else:
        marks = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{curve.colour}"/>' for x, y in points]
    return marks + [
        f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8" stroke="{curve.colour}" stroke-width="2"/>'
        for x, y in crosses
    ]


def _legend(runs: Sequence[Run], top: float) -> str:
    drawn = []
    for number, run in enumerate(runs):
        x, y = _LEFT + number % 5 * 136, top + 16 + 24 * (number // 5)
        drawn.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{_COLOURS[number % len(_COLOURS)]}"/>')
        drawn.append(f'<text x="{x + 18}" y="{y}">{escape(run.plan.label)}</text>')
    return "\n".join(drawn) + "\n"
