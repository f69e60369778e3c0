"""docs/feature-status.toml names only what exists, and its page is current."""

import ast
import runpy
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "make_feature_status.py"))
ROWS = SCRIPT["rows"]()
NUMBERS = {"A": 21, "B": 35, "C": 24, "D": 18, "E": 12, "F": 8, "G": 13}
FIELDS = {"what", "tests", "scripts", "results", "docs", "needs", "note"}


@cache
def names_in(path):
    """Names of the tests in a file, those of classes too, without running it."""
    tree = ast.parse(path.read_text("utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {node.name for node in functions if node.name.startswith("test_")}


def test_the_page_is_current():
    page = (ROOT / "docs" / "feature-status.md").read_text("utf-8")
    assert page == SCRIPT["render"](), "run python scripts/make_feature_status.py"


def test_every_row_is_there_once():
    assert list(ROWS) == [f"{letter}{number}" for letter, last in NUMBERS.items() for number in range(1, last + 1)]
    assert len(ROWS) == 131


@pytest.mark.parametrize("name", ROWS)
def test_what_a_row_names_exists(name):
    row = ROWS[name]
    assert set(row) <= FIELDS
    assert row["what"]
    for test in row.get("tests", ()):
        path, _, function = test.partition("::")
        names = names_in(ROOT / "tests" / path)
        assert function in names if function else names, test
    for kind in ("scripts", "results", "docs"):
        for path in row.get(kind, ()):
            assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("name", ROWS)
def test_a_row_that_nothing_shows_says_why(name):
    row = ROWS[name]
    status = SCRIPT["status"](row)
    if status == "covered":
        assert row.get("tests") or row.get("results")
    if status in ("partly shown", "not shown"):
        assert row["needs"]
        assert row.get("note") or row.get("scripts") or row.get("tests")
