from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from light_tts.compat.launch import launch
from light_tts.compat.programs import API_SERVER, Program

Print = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine that the tests run on decides anything."""
    for name in list(os.environ):
        if name.startswith(("LIGHT_TTS_", "LIGHTTTS_", "LIGHTLLM_")) or name in ("MODEL_DIR", "PORT", "WORKERS"):
            monkeypatch.delenv(name)


@pytest.fixture
def printed(capfd: pytest.CaptureFixture[str]) -> Print:
    """Launches a program with --print_config; the settings by name, old names under "old_names"."""

    def run(line: str, program: Program = API_SERVER, config: dict[str, object] | None = None) -> dict[str, Any]:
        capfd.readouterr()
        assert launch(program, [*line.split(), "--print_config"], config=config) == 0
        return flat(json.loads(capfd.readouterr().out))

    return run


def flat(data: dict[str, Any]) -> dict[str, Any]:
    """Setting -> value; "old_names" -> {name: value}; "origins" -> {setting: origin}."""
    old_names = {name: entry["value"] for name, entry in data.pop("old_names", {}).items()}
    entries = {name: entry for branch in data.values() for name, entry in branch.items()}
    values = {name: entry["value"] for name, entry in entries.items()}
    return {**values, "old_names": old_names, "origins": {name: e["origin"] for name, e in entries.items()}}


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Launches a program that must exit with 2 and one line; the line."""

    def run(line: str, program: Program = API_SERVER, config: dict[str, object] | None = None) -> str:
        capfd.readouterr()
        try:
            status = launch(program, line.split(), config=config)
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capfd.readouterr()
        assert (status, out) == (2, "")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        return err.strip()

    return run
