"""`light-tts verify --golden`: runs every check that a golden directory describes, and counts what was not checked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from light_tts.errors import InvalidRequest
from light_tts.verify.layouts import LAYOUTS, Layout, VerifyOptions, find_layout
from light_tts.verify.report import Ledger, Row

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Section:
    """The rows of one directory or file."""

    title: str
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """Everything that was looked at."""

    sections: list[Section]

    @property
    def rows(self) -> Iterator[Row]:
        """All rows in order."""
        return (row for section in self.sections for row in section.rows)

    @property
    def misses(self) -> list[Row]:
        """The rows that count and are not right."""
        return [row for row in self.rows if not row.ok and not row.informative]

    @property
    def num_checked(self) -> int:
        """Rows that count."""
        return sum(not row.informative for row in self.rows)

    @property
    def ok(self) -> bool:
        """True when something was checked and nothing missed."""
        return self.num_checked > 0 and not self.misses

    def summary(self) -> str:
        """One line."""
        num_informative = sum(row.informative for row in self.rows)
        verdict = "all ok" if self.ok else f"{len(self.misses)} NOT ok" if self.misses else "nothing checked"
        return f"{self.num_checked} rows checked, {verdict}; {num_informative} informative"

    def to_json(self) -> dict[str, Any]:
        """The same as data."""
        sections = [{"title": s.title, "rows": [asdict(row) for row in s.rows]} for s in self.sections]
        return {"ok": self.ok, "checked": self.num_checked, "misses": len(self.misses), "sections": sections}


def verify_golden(
    directory: Path,
    options: VerifyOptions | None = None,
    *,
    on_section: Callable[[Section], None] | None = None,
) -> Report:
    """Check one golden directory, or each one in a directory that holds several.

    on_section:  called with each finished section.
    Raises InvalidRequest when there is nothing to check.
    """
    options = options or VerifyOptions()
    if not directory.is_dir():
        raise InvalidRequest(f"{directory} is not a directory; --golden wants a directory of golden data", "golden")
    sections: list[Section] = []
    for section in _sections(directory, options):
        sections.append(section)
        if on_section is not None:
            on_section(section)
    return Report(sections)


def verify_model_dir(directory: Path, *, on_section: Callable[[Section], None] | None = None) -> Report:
    """Check a model directory's files, keys, shapes and finiteness, and say what it is."""
    from light_tts.verify.model_dir_checks import inspection_rows

    section = Section(str(directory), list(inspection_rows(directory)))
    if on_section is not None:
        on_section(section)
    return Report([section])


def _sections(directory: Path, options: VerifyOptions) -> Iterator[Section]:
    layout = find_layout(directory)
    if layout is not None:
        yield _check_directory(directory, layout, options)
        return
    manifests = sorted(directory.glob("manifest_*.json"))
    children = sorted(path for path in directory.iterdir() if path.is_dir())
    if not manifests and not any(find_layout(child) for child in children):
        known = ", ".join(layout.name for layout in LAYOUTS)
        raise InvalidRequest(
            f"{directory} holds no golden data: neither it nor a folder in it has one of the layouts {known}", "golden"
        )
    for child in children:
        layout = find_layout(child)
        if layout is not None:
            yield _check_directory(child, layout, options)
        else:
            yield Section(child.name, [_unchecked(child.name, "no known layout")])
    if manifests:
        yield _check_manifests(manifests)
    files = [p for p in sorted(directory.iterdir()) if p.is_file() and p not in manifests and p.suffix != ".md"]
    if files:
        yield Section(directory.name, [_unchecked(path.name, "file not checked") for path in files])


def _check_directory(directory: Path, layout: Layout, options: VerifyOptions) -> Section:
    ledger = Ledger(directory)
    for name, check in layout.checks(ledger, options):
        _run(name, check, ledger.rows)
    return Section(f"{directory.name} ({layout.name})", ledger.finish())


def _check_manifests(paths: list[Path]) -> Section:
    from light_tts.verify.manifest_checks import check_manifest

    def check(path: Path) -> None:
        rows.extend(check_manifest(path))

    rows: list[Row] = []
    for path in paths:
        _run(path.name, partial(check, path), rows)
    return Section("manifests", rows)


def _run(name: str, check: Callable[[], None], rows: list[Row]) -> None:
    # The boundary of one check: golden data may be damaged in any way, and the other checks are still worth running.
    try:
        check()
    except Exception as error:
        logger.debug("check %s broke off", name, exc_info=True)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        rows.append(Row(name, "-", None, None, False, note=f"broke off: {reason}"))


def _unchecked(name: str, why: str) -> Row:
    return Row(name, "-", None, None, False, note=why)
