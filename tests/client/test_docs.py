"""The examples of docs/client.md, as written there, against a server."""

import re
import shlex
from pathlib import Path

import pytest

from light_tts import client as package
from light_tts.client.command import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.strip().splitlines()]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A scratch folder that looks like a checkout."""
    (tmp_path / "light_tts").symlink_to(ROOT / "light_tts")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", EXAMPLES, ids=lambda code: code.strip().splitlines()[-1][:40])
def test_every_example_runs(code, base_url, here):
    assert "http://127.0.0.1:8080" in code
    exec(compile(code.replace("http://127.0.0.1:8080", base_url), "docs/client.md", "exec"), {})


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_runs(line, base_url, here):
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "light_tts.client"]
    assert main([*words[3:], "--port", base_url.rsplit(":", 1)[1]]) == 0
    assert (here / words[words.index("--tts_wav") + 1]).stat().st_size > 4000


def test_the_page_names_every_error_and_profile():
    names = {name for name in package.__all__ if isinstance(getattr(package, name), type)}
    unnamed = {name for name in names if name not in PAGE} - {"AudioPiece", "ShortSpeech", "VoiceInfo"}
    assert unnamed == set()
