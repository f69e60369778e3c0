"""Servers of several processes for tests, their engines fake ones."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import psutil

ROOT = Path(__file__).parents[2]
ENGINE_COMMAND = (sys.executable, "-m", "tests.frontdoor.fake_engine_process")
PARENT = """
import sys
from light_tts.frontdoor.server_processes import run_processes
from light_tts.cli import run_command
from light_tts.logs import configure_logging
from light_tts.settings import EngineSettings, ServerSettings, Settings
configure_logging()
settings = Settings(engine=EngineSettings(**{engine}), server=ServerSettings(**{server}))
sys.exit(run_command(lambda: run_processes(settings, {cpus}, engine_command={command})))
"""


def environment(**variables):
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}


@contextlib.contextmanager
def server(port, *, engine=(), cpus=None, variables=(), tmp=None, **settings):
    """(process, URL) of a parent with two front ends; nothing of it is left afterwards."""
    values = {"http_workers": 2, "port": port, "drain_timeout_s": 10.0, **settings}
    code = PARENT.format(engine=dict(engine), server=values, cpus=cpus, command=ENGINE_COMMAND)
    variables = {**dict(variables), **({"TMPDIR": str(tmp)} if tmp else {})}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
        cwd=ROOT,
    )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        family = family_of(process.pid)
        process.kill()
        process.communicate()
        psutil.wait_procs(family, timeout=10)
        assert [each for each in family if each.is_running()] == []


def family_of(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def wait_for(condition, timeout_s=60):
    """The first true value of a condition, whose failures to connect count as false."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        with contextlib.suppress(httpx2.TransportError, psutil.NoSuchProcess):
            if found := condition():
                return found
        time.sleep(0.02)
    raise AssertionError("it never came true")


def is_ready(url):
    return httpx2.get(url + "/readiness").status_code == 200


def speak(url, text="hello", **fields):
    return httpx2.post(url + "/inference_zero_shot", data={"tts_text": text, "stream": "true", **fields}, timeout=120)
