"""Reading a model directory: the YAML dialect and the style list against recorded values, and a look at a real one."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from light_tts.models.family import families
from light_tts.models.inspection import inspect_model_dir
from light_tts.models.styles import choose_style, parse_styles, read_styles
from light_tts.models.yaml_config import class_name, read_config, value_at
from light_tts.verify.report import Ledger, Row

_ABSENT = "<absent>"


def check_model_dir(ledger: Ledger) -> None:
    """Every file of a directory with expected.json (dotted paths of sample YAMLs) and style_expected.json."""
    expected = _read(ledger, "expected.json")
    for filename, values in expected.items():
        ledger.opened(filename)
        config = read_config(ledger.directory / filename)
        for path, value in values.items():
            if path == "version":
                ledger.exact(f"{filename} {path}", _generation(filename, config), value)
            else:
                # Through JSON, so that a number of another type (25 and 25.0) is a difference.
                actual = value_at(config, path, _ABSENT)
                ledger.exact(f"{filename} {path}", json.dumps(actual), json.dumps(value))
    if (ledger.directory / "style_expected.json").is_file():
        _check_styles(ledger)


def inspection_rows(directory: Path) -> list[Row]:
    """What is in a model directory, as rows; what merely states a fact is informative."""
    return [
        Row(finding.name, finding.size, None, None, finding.ok, finding.is_summary, finding.note)
        for finding in inspect_model_dir(directory)
    ]


def _generation(filename: str, config: dict[str, Any]) -> int | None:
    """The version that the file's name says, if its class names agree."""
    family = next((family for family in families() if family.config_filename == filename), None)
    if family is None or any(class_name(config.get(part)) != name for part, name in family.class_names.items()):
        return None
    return family.generation


def _check_styles(ledger: Ledger) -> None:
    expected = _read(ledger, "style_expected.json")
    directory = ledger.directory
    ledger.opened("style_config.json")
    styles = parse_styles(directory / "style_config.json", directory)
    ledger.exact("style_config.json styles", _listed(styles, directory), expected["styles"])
    ledger.exact("style_config.json default", choose_style(styles, "default"), expected["default_style"])
    with TemporaryDirectory() as empty:
        without = _listed(read_styles(Path(empty)), Path(empty))
    ledger.exact("styles without the file", without, expected["without_the_file"])


def _listed(styles: dict[str, Path], directory: Path) -> list[list[str]]:
    return [[name, str(path).replace(str(directory), "MODEL_DIR")] for name, path in styles.items()]


def _read(ledger: Ledger, filename: str) -> Any:
    ledger.opened(filename)
    return json.loads((ledger.directory / filename).read_text(encoding="utf-8"))
