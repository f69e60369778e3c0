"""A verification on a terminal, or as plain lines when the output is no terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from light_tts.verify.report import Row
from light_tts.verify.runner import Report, Section

_HEADINGS = ("name", "shape", "max abs error", "tolerance", "ok", "note")


def print_section(section: Section, console: Console) -> None:
    """One row per tensor or case: name, shape, max abs error, tolerance, ok."""
    rows = [_cells(row) for row in section.rows]
    if console.is_terminal:
        console.print(_table(section, rows))
    else:
        print("\n".join(_plain_lines(section.title, rows)), file=console.file)
    console.print()


def _cells(row: Row) -> tuple[str, ...]:
    return row.name, row.shape, _number(row.error), _number(row.tolerance), _verdict(row), row.note


def _table(section: Section, rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=section.title, title_justify="left", box=None, pad_edge=False)
    for heading in _HEADINGS:
        is_number = heading in ("max abs error", "tolerance")
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for row, cells in zip(section.rows, rows, strict=True):
        # `Text` keeps the brackets of names like [laughter], which rich would read as markup.
        style = "dim" if row.informative else "" if row.ok else "bold red"
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def _plain_lines(title: str, rows: list[tuple[str, ...]]) -> list[str]:
    """For files and pipes: one line a row, never folded, so that `grep` finds whole rows."""
    lines = [_HEADINGS, *rows]
    widths = [max(len(cells[column]) for cells in lines) for column in range(len(_HEADINGS))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) for cells in lines)
    return [title, *(line.rstrip() for line in padded)]


def print_summary(report: Report, console: Console) -> None:
    """The misses again, where one sees them, and one line with the result."""
    for row in report.misses:
        console.print(Text(f"NOT ok: {row.name}  {row.note}".rstrip(), style="red"), soft_wrap=True)
    console.print(report.summary(), style="green" if report.ok else "bold red", highlight=False)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _verdict(row: Row) -> str:
    if row.informative:
        return "info" if row.ok else "info (differs)"
    return "ok" if row.ok else "NOT ok"
