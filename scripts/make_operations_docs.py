"""Writes the table of metrics of docs/operations.md from the code: python scripts/make_operations_docs.py"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from light_tts.metrics import Metrics

TARGET = Path(__file__).resolve().parent.parent / "docs" / "operations.md"
MARK = re.compile(r"(<!-- begin metrics -->\n).*?(<!-- end metrics -->)", re.DOTALL)
UNITS = {"_seconds": "s", "_bytes": "bytes", "_chars": "characters", "_hit_rate": "0 to 1", "_rtf": "s per s of audio"}


def render(page: str) -> str:
    """The page with the table made anew."""
    return MARK.sub(lambda found: found[1] + "\n" + "\n".join(_lines()) + "\n\n" + found[2], page)


def _lines() -> Iterator[str]:
    yield from ("| metric | kind | unit | labels | what |", "|---|---|---|---|---|")
    for collector in _collectors():
        [family] = collector.describe()  # type: ignore[attr-defined]
        name = f"{family.name}_total" if family.type == "counter" else family.name
        unit = next((unit for end, unit in UNITS.items() if family.name.endswith(end)), "")
        labels = ", ".join(f"`{label}`" for label in collector._labelnames)  # type: ignore[attr-defined]
        yield f"| `{name}` | {family.type} | {unit} | {labels} | {family.documentation} |"


def _collectors() -> list[object]:
    """In the order in which they are declared."""
    return list(Metrics().registry._collector_to_names)


if __name__ == "__main__":
    TARGET.write_text(render(TARGET.read_text("utf-8")), "utf-8")
    print(f"wrote {TARGET}")
