from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_of_the_command_line_is_current() -> None:
    render = runpy.run_path(str(ROOT / "scripts" / "make_cli_docs.py"))["render"]
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert page == render(), "run python scripts/make_cli_docs.py"
    assert "`--max-running` `N`" in page
