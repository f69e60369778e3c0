"""docs/operations.md and docs/tuning.md: what they name exists."""

import re
import runpy
from pathlib import Path

import pytest

from light_tts.settings_loader import preset_names
from light_tts.settings_spec import setting_specs

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / "docs" / name).read_text("utf-8") for name in ("operations.md", "tuning.md")}
OF_OTHER_PROGRAMS = {
    "--build-arg", "--timeout", "--max-requests", "--cpunodebind", "--membind", "--trace", "--fp16", "--print-config",
    "--collect-env", "--preset", "--model-dir", "--gpu", "--find-capacity", "--streams", "--now", "--url", "--workers",
}  # fmt: skip


def test_the_table_of_metrics_is_current():
    render = runpy.run_path(str(ROOT / "scripts" / "make_operations_docs.py"))["render"]
    page = PAGES["operations.md"]
    assert page == render(page), "run python scripts/make_operations_docs.py"
    assert "| `tts_vocoder_seconds` | histogram | s |" in page


@pytest.mark.parametrize("name", PAGES)
def test_every_flag_is_a_setting(name):
    known = {spec.flag for spec in setting_specs().values()} | OF_OTHER_PROGRAMS
    assert [flag for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", PAGES[name]) if flag not in known] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_link_and_file_leads_somewhere(name):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[name])
    assert targets
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
    files = re.findall(r"`((?:scripts|test|benchmarks)/[\w/.-]+)`", PAGES[name])
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_every_preset_is_explained():
    assert [name for name in preset_names() if f"`{name}`" not in PAGES["tuning.md"]] == []
