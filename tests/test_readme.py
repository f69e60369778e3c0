"""The README's commands and code, as written there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for language, block in BLOCKS if language == "bash" for line in block.strip().splitlines()]
SPOKEN = [line for line in COMMANDS if "light-tts say" in line]
MINIMUM_BYTES = 4000


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, object]:
    """What `subprocess.run` needs so that `light-tts` is this code, in a scratch folder that looks like a checkout."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "light-tts"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m light_tts "$@"\n')
    command.chmod(0o755)
    for name in ("light_tts", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(tmp_path / "data")}
    return {"cwd": tmp_path, "env": environment, "text": True, "capture_output": True, "timeout": 240, "check": False}


def test_the_readme_opens_with_the_two_commands() -> None:
    assert README.split("```bash\n")[1].split("```")[0].splitlines() == [
        'pip install -c constraints.txt . && light-tts say "Hello, welcome. 您好，欢迎使用语音合成服务。" -o hello.wav',
        'pip install -c constraints.txt ".[dev]" && pytest',
    ]


@pytest.mark.parametrize("line", SPOKEN, ids=lambda line: line[:50])
def test_every_say_command_speaks(line: str, shell: dict[str, object], tmp_path: Path) -> None:
    done = subprocess.run(line.split(" && ")[-1], shell=True, **shell)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    name = (re.search(r"> (\S+)$", line) or re.search(r"-o (\S+)$", line)).group(1)  # type: ignore[union-attr]
    assert (tmp_path / name).stat().st_size > MINIMUM_BYTES


def test_the_python_example_runs(shell: dict[str, object]) -> None:
    (code,) = (block for language, block in BLOCKS if language == "python")
    done = subprocess.run([sys.executable, "-c", code], **shell)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d\.\d\d s, first audio after \d+ ms\n", done.stdout)


def test_the_model_directory_command_is_content(shell: dict[str, object]) -> None:
    (line,) = (line for line in COMMANDS if line.startswith("light-tts verify --model-dir"))
    done = subprocess.run(line, shell=True, **shell)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout
    assert "all ok" in done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_server_answers_the_curl_command(shell: dict[str, object], tmp_path: Path) -> None:
    (serve,) = (line for line in COMMANDS if line.startswith("light-tts serve"))
    (curl,) = (line for line in COMMANDS if line.startswith("curl"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = shlex.split(serve.replace("8080", port))[1:]
    log = (tmp_path / "server.log").open("w")
    where = {"cwd": shell["cwd"], "env": shell["env"], "stderr": log}
    server = subprocess.Popen([sys.executable, "-m", "light_tts", *words], **where)  # type: ignore[call-overload]
    try:
        wait_until_ready(port, server)
        done = subprocess.run(curl.replace("8080", port), shell=True, **shell)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "server.wav").read_bytes().startswith(b"RIFF")
        assert (tmp_path / "server.wav").stat().st_size > MINIMUM_BYTES
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        log.close()


def wait_until_ready(port: str, server: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readiness", timeout=5) as answer:
                json.load(answer)
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError("the server did not become ready")


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()
