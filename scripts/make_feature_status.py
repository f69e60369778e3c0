"""Writes docs/feature-status.md from docs/feature-status.toml: python scripts/make_feature_status.py"""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "docs" / "feature-status.toml"
TARGET = SOURCE.with_suffix(".md")
CHAPTERS = {
    "A": "Starting the server",
    "B": "Engine flags",
    "C": "HTTP and WebSocket",
    "D": "Metrics, logs, monitoring",
    "E": "Text, streaming, caches",
    "F": "The system around it",
    "G": "Programs and targets",
}
COVERED, RECORDED, DOCUMENTED, PARTLY, MISSING = "covered", "recorded", "documented", "partly shown", "not shown"
HEADER = """\
# What shows that it works

Every capability that guides for LightTTS and CosyVoice servers name, and what shows it here. Made from
`feature-status.toml` by `scripts/make_feature_status.py`; a test checks that the page is current and that every test,
script and result named in it exists.

- **covered**: by tests that run in the continuous checks
- **recorded**: a script showed it on a machine that the checks do not have, and its result is kept
- **documented**: advice, nothing to run
- **partly shown**: tests show what a CPU can; the rest needs what is named
- **not shown**: nothing shows it yet
"""


def rows() -> dict[str, dict[str, Any]]:
    """Number -> what the data file says of it."""
    return tomllib.loads(SOURCE.read_text("utf-8"))


def status(row: dict[str, Any]) -> str:
    """One of the five words of the page."""
    if row.get("results") and "needs" in row:
        return RECORDED
    if "needs" in row:
        return PARTLY if row.get("tests") else MISSING
    if row.get("tests") or row.get("results"):
        return COVERED
    return DOCUMENTED if row.get("docs") else MISSING


def render() -> str:
    """The whole page."""
    table = rows()
    count = Counter(status(row) for row in table.values())
    words = (COVERED, RECORDED, DOCUMENTED, PARTLY, MISSING)
    parts = [HEADER, f"{len(table)} rows: {', '.join(f'{count[word]} {word}' for word in words)}.\n"]
    for letter, title in CHAPTERS.items():
        parts += [f"## {letter}. {title}\n", "| | capability | status | shown by |\n|---|---|---|---|"]
        parts[-1] += "".join(_line(name, row) for name, row in table.items() if name.startswith(letter)) + "\n"
    return "\n".join(parts)


def _line(name: str, row: dict[str, Any]) -> str:
    tests = [f"`tests/{test}`" for test in row.get("tests", ())]
    others = [f"`{path}`" for kind in ("scripts", "results", "docs") for path in row.get(kind, ())]
    needs = f" (needs {row['needs']})" if "needs" in row and not row.get("results") else ""
    note = f" — {row['note']}" if "note" in row else ""
    shown = "<br>".join(tests + others) or "-"
    return f"\n| {name} | {row['what']} | {status(row)}{needs} | {shown}{note} |"


if __name__ == "__main__":
    TARGET.write_text(render(), "utf-8")
    print(f"wrote {TARGET}")
