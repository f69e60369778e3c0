"""docs/api.md: its commands run, and its tables know what the code knows."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from light_tts.engine import TTSEngine
from light_tts.errors import LightTTSError
from light_tts.server import errors
from light_tts.server.app import create_app
from light_tts.settings import FrontendSettings, ModelSettings, Settings

from .server.conftest import serving

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "api.md").read_text("utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.strip().splitlines()]
ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture(scope="module")
def base_url(tmp_path_factory):
    settings = Settings(
        model=ModelSettings(device="cpu", cpu_threads=1),
        frontend=FrontendSettings(voices_dir=tmp_path_factory.mktemp("voices")),
    )
    with TTSEngine.load(settings) as engine, serving(create_app(engine, settings), settings) as url:
        yield url


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_command_is_answered(base_url, tmp_path):
    (tmp_path / "light_tts").symlink_to(ROOT / "light_tts")
    assert len(COMMANDS) > 20
    for command in COMMANDS:
        line = command.replace(ADDRESS, base_url)
        assert line != command
        done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, command
        output = re.search(r"-o (\S+)$", command)
        answer = (tmp_path / output.group(1)).read_bytes() if output else done.stdout
        assert len(answer) > (4000 if output else 10), command


@pytest.mark.slow
def test_the_session_in_python_is_spoken(base_url):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    code = code.replace(ADDRESS.replace("http", "ws"), base_url.replace("http", "ws"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.match(r"\d{4,} bytes\n", done.stdout)
    assert '"event":"end"' in done.stdout.splitlines()[-1].replace(" ", "")


def test_every_endpoint_is_described():
    paths = create_app(None, Settings()).openapi()["paths"]
    described = [path for path in paths if f"`{re.sub('/{.*}', '', path)}" in PAGE]
    assert described == list(paths)


def test_every_error_code_is_described():
    def kinds(base):
        return {base, *(deeper for kind in base.__subclasses__() for deeper in kinds(kind))}

    # These end a start or never leave the engine, or are answered as INFERENCE_FAILED.
    inside = {"INTERNAL", "CHECKPOINT", "CONFIG"}
    # What a client raises is not answered by a server; its kinds are there when another test has imported them.
    ours, clients = "light_tts.", "light_tts.client."
    named = {kind: f"{kind.__module__}." for kind in kinds(LightTTSError)}
    in_server = {kind for kind, name in named.items() if name.startswith(ours) and not name.startswith(clients)}
    codes = {kind.code for kind in in_server} - inside
    table = PAGE[PAGE.index("| status | `error_code`") : PAGE.index("`--strict-lighttts`")]
    assert {code for code in codes if f"`{code}`" not in table} == set()
    for status, codes_of_row in re.findall(r"^\| (\d+)[^|]*\| ([^|]*)\|", table, re.MULTILINE):
        for kind in in_server:
            if f"`{kind.code}`" in codes_of_row and kind in errors._TABLE:
                assert errors._TABLE[kind].status in (int(status), 405)


def test_the_proto_is_the_table_that_the_service_is_made_of():
    messages = pytest.importorskip("light_tts.server.grpc_messages").MESSAGES
    (proto,) = re.findall(r"```proto\n(.*?)```", PAGE, re.DOTALL)
    written = {
        name: tuple((kind, field) for kind, field, _ in re.findall(r"(\w+) (\w+) = (\d+);", body))
        for name, body in re.findall(r"message (\w+) \{\n(.*?)\n\}", proto, re.DOTALL)
    }
    assert written == messages
    for body in re.findall(r"message \w+ \{\n(.*?)\n\}", proto, re.DOTALL):
        numbers = re.findall(r" = (\d+);", body)
        assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
