"""Workers of gunicorn share one engine: the real gunicorn, the engine that speaks a sine."""

import contextlib
import signal
import subprocess
import sys

import httpx2
import psutil
import pytest

from light_tts.errors import ConfigError
from light_tts.frontdoor.shared_engine import private_directory
from tests.frontdoor.processes import ENGINE_COMMAND, ROOT, environment, family_of, is_ready, speak, wait_for
from tests.server.test_api_server import free_port

FAKE_APP = "tests.frontdoor.wsgi_app:app"
ENGINE_MODULES = {ENGINE_COMMAND[-1], "light_tts.frontdoor.engine_process"}


@contextlib.contextmanager
def gunicorn(tmp, *arguments, workers=2, variables=(), worker="uvicorn_worker.UvicornWorker", app=FAKE_APP):
    """(process, URL) of a master with its workers."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-k", worker, "-w", str(workers)]
    command += ["-b", f"127.0.0.1:{port}", *arguments, app]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(XDG_RUNTIME_DIR=str(tmp), **dict(variables)),
    )
    engines = []
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        engines = engines_of(tmp)
        process.terminate()
        process.communicate()
        _, alive = psutil.wait_procs(engines, timeout=20)
        assert alive == []


def engines_of(tmp):
    """The engine's processes that were started for this test, whoever their parent is now."""
    found = []
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if ENGINE_MODULES & {*each.cmdline()} and each.environ().get("XDG_RUNTIME_DIR") == str(tmp):
                found.append(each)
    return found


def workers_of(process):
    return [each for each in family_of(process.pid) if not ENGINE_MODULES & {*each.cmdline()}]


def num_front_ends(url):
    return httpx2.get(url + "/health").json().get("http_workers")


def test_workers_share_one_engine_and_a_killed_one_does_not_reload_it(tmp_path):
    with gunicorn(tmp_path) as (process, url):
        wait_for(lambda: is_ready(url) and num_front_ends(url) == 2)
        [engine] = engines_of(tmp_path)
        assert {httpx2.get(url + "/health").json()["pid"] for _ in range(10)} == {engine.pid}
        assert len(speak(url).content) == 2 * 48_000
        victim = workers_of(process)[0]
        victim.kill()
        wait_for(lambda: len(workers_of(process)) == 2 and victim not in workers_of(process))
        wait_for(lambda: num_front_ends(url) == 2)
        assert engines_of(tmp_path) == [engine]
        assert len(speak(url).content) == 2 * 48_000

        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        psutil.wait_procs([engine], timeout=20)
        assert not engine.is_running()
    assert process.returncode == 0, log
    [directory] = tmp_path.iterdir()
    assert directory.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in directory.iterdir()] == ["start.lock"]


def test_a_worker_that_is_recycled_finds_the_engine_again(tmp_path):
    with gunicorn(tmp_path, "--max-requests", "8", workers=1) as (process, url):
        wait_for(lambda: is_ready(url))
        [engine], [first] = engines_of(tmp_path), workers_of(process)
        wait_for(lambda: httpx2.get(url + "/liveness").is_success and first not in workers_of(process))
        wait_for(lambda: is_ready(url))
        assert engines_of(tmp_path) == [engine]


def test_an_engine_that_dies_is_started_again_once(tmp_path):
    with gunicorn(tmp_path) as (_, url):
        wait_for(lambda: is_ready(url) and num_front_ends(url) == 2)
        [engine] = engines_of(tmp_path)
        speak(url, "crash")
        wait_for(lambda: is_ready(url) and num_front_ends(url) == 2)
        [other] = engines_of(tmp_path)
        assert other != engine


def test_an_engine_that_cannot_be_loaded_ends_the_master_with_its_sentence(tmp_path):
    with gunicorn(tmp_path, variables={"FAKE_BROKEN": "1"}) as (process, _):
        _, log = process.communicate(timeout=60)
    assert process.returncode in (1, 3)  # 1 when gunicorn sees both workers end at once
    assert "llm.pt is missing." in log


def test_a_directory_that_others_can_enter_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    directory = private_directory()
    assert private_directory() == directory
    directory.chmod(0o755)
    with pytest.raises(ConfigError, match="nobody else can enter"):
        private_directory()


@pytest.mark.slow
def test_the_wrapper_of_the_guides_loads_the_builtin_voice_once(tmp_path):
    variables = {"LIGHT_TTS_VOICES_DIR": str(tmp_path / "voices"), "LIGHT_TTS_DEVICE": "cpu"}
    wrapper = gunicorn(tmp_path, worker="uvicorn.workers.UvicornWorker", app="wsgi_wrapper:app", variables=variables)
    with wrapper as (process, url):
        wait_for(lambda: is_ready(url) and num_front_ends(url) == 2, timeout_s=240)
        [engine] = engines_of(tmp_path)
        first = speak(url, "Hello.", spk_id="en_female", seed=1)
        assert (first.status_code, len(first.content) > 10_000) == (200, True)
        workers_of(process)[0].kill()
        wait_for(lambda: num_front_ends(url) == 1)
        wait_for(lambda: num_front_ends(url) == 2)
        assert speak(url, "Hello.", spk_id="en_female", seed=1).content == first.content
        assert engines_of(tmp_path) == [engine]
