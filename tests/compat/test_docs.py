"""The page for those who come from other servers: made from the table, and its command runs."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

from light_tts.compat.flags import OLD_NAMES, SAME_NAMES
from light_tts.settings_spec import setting_specs

from .conftest import Print

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "from-lighttts.md"


def test_the_tables_are_current() -> None:
    render = runpy.run_path(str(ROOT / "scripts" / "make_compat_docs.py"))["render"]
    page = PAGE.read_text("utf-8")
    assert page == render(page), "run python scripts/make_compat_docs.py"
    assert all(f"| `{name}` |" in page for name in OLD_NAMES)


def test_names_that_stayed_are_settings_and_no_name_stands_twice() -> None:
    assert set(SAME_NAMES) <= set(setting_specs())
    assert not set(SAME_NAMES) & set(OLD_NAMES)


def test_the_launch_line_of_the_page_starts(printed: Print) -> None:
    (line,) = re.findall(
        r"^python -m light_tts\.server\.api_server (.*) --print_config$", PAGE.read_text("utf-8"), re.M
    )
    shown = printed(" ".join(shlex.split(line)))
    assert (shown["prefill_budget_tokens"], shown["kv_cache_dtype"]) == (8192, "int8")
