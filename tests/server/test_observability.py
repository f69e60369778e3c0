"""What operators see of a server around the real engine: every metric moves, health, log lines, the drain."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest
import structlog

from light_tts.assets import builtin_model_dir
from light_tts.engine import TTSEngine
from light_tts.errors import EngineFailure, StageLost
from light_tts.logs import render_text
from light_tts.server.app import create_app
from light_tts.server.errors import error_response
from light_tts.server.stats_log import StatsLog
from light_tts.settings import EngineSettings, FrontendSettings, ModelSettings, Settings

from .conftest import serving

ZERO_SHOT = "/inference_zero_shot"
LONG_TEXT = "今天天气真不错，我们一起去公园散步吧。" * 6
GPU = {"device": "GPU 0", "used_bytes": 5, "total_bytes": 9, "reserved_bytes": 1, "process_bytes": 2}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(app, URL) of a server with one place and a queue of one."""
    settings = Settings(
        model=ModelSettings(cpu_threads=1),
        frontend=FrontendSettings(voices_dir=tmp_path_factory.mktemp("voices")),
        engine=EngineSettings(max_concurrent_requests=1, max_queue=1),
    )
    app = create_app(None, settings)
    with serving(app, settings) as url:
        app.state.first_page = scrape(url)
        with TTSEngine.load(settings, events=app.state.server.observer.engine) as engine:
            engine.gpu_memory = lambda: {**GPU, "index": 0}
            app.state.server.engine = engine
            yield app, url


def values(text):
    """name{labels} -> value of every sample."""
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in rows}


def scrape(url):
    return httpx2.get(url + "/metrics").text


def speak(url, text="Hello.", **fields):
    return httpx2.post(url + ZERO_SHOT, data={"tts_text": text, "stream": "true", **fields}, timeout=60)


def speak_short(url, text="Hello."):
    return httpx2.post(url + "/inference_short", json={"text": text}, timeout=60)


def clone(url):
    recording = (Path(builtin_model_dir()) / "prompts" / "en_male.wav").read_bytes()
    files = {"prompt_wav": ("a.wav", recording)}
    return httpx2.post(url + ZERO_SHOT, data={"tts_text": "Hello."}, files=files, timeout=60)


def read_first_bytes_and_leave(url):
    with httpx2.stream("POST", url + ZERO_SHOT, data={"tts_text": LONG_TEXT, "stream": "true"}, timeout=60) as answer:
        next(answer.iter_bytes())


def wait_until_idle(engine):
    while engine.health()["running"] or engine.health()["queued"]:
        time.sleep(0.01)


def test_every_metric_moves(server, monkeypatch):
    app, url = server
    engine = app.state.server.engine
    texts = [app.state.first_page]
    declared = set(re.findall(r"^# TYPE (\w+)", texts[0], re.MULTILINE))
    assert speak(url).status_code == 200
    assert speak(url, LONG_TEXT[:80]).status_code == 200
    assert clone(url).status_code == clone(url).status_code == 200
    assert httpx2.post(url + "/v1/audio/speech", json={"input": "Hi."}, timeout=60).status_code == 200
    assert speak(url, "……").status_code == 400
    assert [speak_short(url).headers["x-cache"] for _ in range(2)] == ["MISS", "HIT"]
    texts.append(scrape(url))
    read_first_bytes_and_leave(url)
    wait_until_idle(engine)

    leaving = threading.Thread(target=speak_short, args=(url, LONG_TEXT[:95]))
    waiting = threading.Thread(target=speak, args=(url,))
    leaving.start()
    while not engine.health()["running"]:
        time.sleep(0.005)
    waiting.start()
    while not engine.health()["queued"]:
        time.sleep(0.005)
    refused = speak(url)
    assert (refused.status_code, refused.json()["error_code"]) == (503, "OVERLOADED")
    assert int(refused.headers["Retry-After"]) >= 1
    texts.append(scrape(url))
    health = httpx2.get(url + "/health").json()
    assert (health["current_concurrent_requests"], health["queued_requests"]) == (1, 1)
    assert health["gpu_memory"] == GPU
    assert health["backends"]["flow"].startswith("built-in (TensorRT")
    assert health["llm"]["kv_blocks_total"] > 0
    leaving.join()
    waiting.join()

    serve, calls = engine._decoder.main._launch, []

    def die_once(work):
        calls.append(work)
        if len(calls) == 1:
            raise RuntimeError("injected")
        return serve(work)

    monkeypatch.setattr(engine._decoder.main, "_launch", die_once)
    assert speak(url).status_code == 200
    texts.append(scrape(url))

    samples = [values(text) for text in texts]
    moved = {name for name in samples[-1] if len({sample.get(name) for sample in samples}) > 1}
    series = {re.split(r"[{]", name)[0] for name in moved}
    still = {
        name
        for name in declared
        if not any(s in (name, f"{name}_total", f"{name}_count", f"{name}_sum") for s in series)
    }
    assert {name for name in still if not name.endswith("_created")} == set()
    last = samples[-1]
    assert last["tts_kv_blocks_total"] == health["llm"]["kv_blocks_total"]
    assert last["tts_engine_up"] == 1
    assert last['lightllm_gpu_memory_usage_bytes{gpu="0"}'] == GPU["process_bytes"]
    assert samples[1]["short_text_cache_hit_rate"] == 0.5
    assert (samples[1]["short_text_cache_hits_total"], samples[1]["short_text_cache_misses_total"]) == (1, 1)
    assert samples[1]["short_text_latency_seconds_count"] == 2
    assert [sample["short_text_concurrent_requests"] for sample in samples] == [0, 0, 1, 0]
    # A hit was no speech made for a request, and took no time of the models.
    assert samples[1]["tts_rtf_count"] == samples[1]["lightllm_request_success_total"] - 1
    assert (last["tts_engine_restarts_total"], last["tts_requests_retried_total"]) == (1, 1)
    assert (last["tts_voice_cache_hits_total"], last["tts_voice_cache_misses_total"]) == (1, 1)
    finished = sum(last[f"{name}_total"] for name in ("lightllm_request_success", "lightllm_request_failure"))
    assert finished + last["tts_requests_aborted_total"] == last["lightllm_request_count_total"]


def test_the_engine_is_seen_to_be_down(server, monkeypatch):
    app, url = server
    monkeypatch.setattr(app.state.server.engine._supervisor, "down", lambda: ["acoustic"])
    assert values(scrape(url))["tts_engine_up"] == 0
    answer = httpx2.get(url + "/health")
    assert (answer.status_code, answer.json()["error"]) == (503, "acoustic: the thread has died")
    assert httpx2.get(url + "/readiness").status_code == 503


def test_the_requests_line_has_the_cost_of_every_stage(server):
    _, url = server
    with structlog.testing.capture_logs() as lines:
        speak(url, voice="en_female")
        speak(url, voice="en_female")
        while len([line for line in lines if line["event"] == "request done"]) < 2:
            time.sleep(0.01)
    first, second = (line for line in lines if line["event"] == "request done")
    for name in ("llm_ms", "flow_ms", "vocoder_ms", "queue_ms", "prompt_s", "first_chunk_ms", "tokens", "rtf"):
        assert second[name] > 0, name
    assert first["finish"] == "stop"
    assert second["cache"] == "hit"
    assert second["llm_ms"] + second["flow_ms"] < 2 * second["total_ms"]


REQUEST_KEYS = (
    "id x_request_id x_session_id route model voice text_chars segments prompt_s first_chunk_ms total_ms chunks "
    "audio_s rtf llm_ms flow_ms vocoder_ms queue_ms tokens cache finish"
)


@pytest.mark.parametrize(
    ("body", "finish", "cache"),
    [({"text": "您好"}, "stop", "miss"), ({"text": "您好"}, "stop", "hit"), ({}, "error", "-")],
)
def test_the_requests_line_has_all_its_keys_in_their_order(server, body, finish, cache):
    _, url = server
    with structlog.testing.capture_logs() as entries:
        httpx2.post(url + "/inference_short", json=body, headers={"x-session-id": "a b"}, timeout=60)
        while not any(entry["event"] == "request done" for entry in entries):
            time.sleep(0.01)
    [entry] = [entry for entry in entries if entry["event"] == "request done"]
    line = render_text(None, "info", entry)
    keys = re.findall(r"(\w+)=", re.sub(r'"[^"]*"', "", line))
    assert keys[: len(REQUEST_KEYS.split())] == REQUEST_KEYS.split()
    assert f"cache={cache} finish={finish}" in line
    assert 'x_session_id="a b" route=/inference_short' in line
    assert "您好" not in line


def test_statistics_are_written_whether_something_happens_or_not(server):
    app, url = server
    wait_until_idle(app.state.server.engine)
    log = statistics(app)
    log.line()
    idle = log.line()
    assert (idle["running"], idle["speech_tokens_per_s"], idle["llm_batch"]) == (0, 0.0, None)
    speak(url)
    line = log.line()
    assert set(line) == set(idle)
    assert line["speech_tokens_per_s"] > 0
    assert line["audio_s_per_s"] > 0
    assert line["llm_batch"] == line["flow_batch"] == 1.0
    assert line["gpu_memory_mb"] == 0


def test_the_statistics_thread_writes_and_stops(server):
    app, _ = server
    log = statistics(app, interval_s=0.05)
    with structlog.testing.capture_logs() as lines:
        log.start()
        while not any(line["event"] == "engine stats" for line in lines):
            time.sleep(0.01)
        log.close()
    assert not log._thread.is_alive()


def statistics(app, interval_s=10.0):
    return StatsLog(app.state.server.engine, app.state.server.observer.engine, interval_s)


def test_a_request_may_bring_its_own_deadline(server):
    _, url = server
    answer = speak(url, LONG_TEXT, stream="false", timeout_s="0.2")
    assert (answer.status_code, answer.json()["error_code"]) == (504, "TIMEOUT")


def test_a_recording_that_is_none_is_refused_in_the_words_clients_know(server):
    _, url = server
    files = {"prompt_wav": ("a.wav", b"not a recording")}
    answer = httpx2.post(url + ZERO_SHOT, data={"tts_text": "Hello.", "prompt_text": "a"}, files=files)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_AUDIO")
    assert answer.json()["message"].startswith("audio file format is incorrect")
    said = httpx2.post(url + "/v1/audio/speech", json={"input": "a", "ref_audio": "bm90IGEgcmVjb3JkaW5n"})
    assert "audio file format is incorrect" not in said.text


@pytest.mark.parametrize("path", [ZERO_SHOT, "/v1/audio/speech"])
def test_what_would_fail_again_says_so(path):
    assert error_response(EngineFailure("bug"), path).headers["x-should-retry"] == "false"
    assert error_response(ValueError("bug"), path).headers["x-should-retry"] == "false"
    assert "x-should-retry" not in error_response(StageLost("died"), path).headers


CHILD = """
import sys, torch
torch.set_num_threads(1)
from light_tts.cli import main
sys.exit(main("serve --cpu-threads 1 --short-cache-mb 0 --drain-timeout-s 60 --api-key secret --port {port}".split()))
"""
KEY = {"authorization": "Bearer secret"}


def test_sigterm_lets_a_real_request_end():
    from .test_api_server import free_port, wait_for_status

    port = free_port()
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(port=port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for_status(url + "/readiness", 200, timeout_s=60)
        data = {"tts_text": LONG_TEXT[:57], "stream": "true", "seed": "1"}
        with httpx2.stream("POST", url + ZERO_SHOT, data=data, headers=KEY, timeout=60) as answer:
            pieces = answer.iter_bytes()
            received = len(next(pieces))
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            with pytest.raises(httpx2.TransportError):
                httpx2.get(url + "/liveness")
            received += sum(map(len, pieces))
        _, log = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, log
    assert received > 4 * 48_000
    assert "finish=stop" in log
    assert "Traceback" not in log
    # What the log says of the start.
    assert f"port={port} (flag --port)" in log
    assert "flow_steps=10, " in log
    assert "secret" not in log
    for words in ("warmed up in ", "loop: ", "ready on http://127.0.0.1:"):
        assert words in log


def test_sigterm_twice_ends_at_once():
    from .test_api_server import free_port, wait_for_status

    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(port=port)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for_status(url + "/readiness", 200, timeout_s=60)
        with contextlib.suppress(httpx2.TransportError):
            data = {"tts_text": LONG_TEXT * 4, "stream": "true"}
            with httpx2.stream("POST", url + ZERO_SHOT, data=data, headers=KEY, timeout=60) as answer:
                pieces = answer.iter_bytes()
                next(pieces)
                process.send_signal(signal.SIGINT)
                time.sleep(0.2)
                process.send_signal(signal.SIGINT)
                list(pieces)
        _, log = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert "Traceback" not in log
