"""The process: port, loading, draining. The engine is the fake one, put in place of the real one in a child process."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest
import websockets

from light_tts.errors import ConfigError
from light_tts.server.errors import BrokenAnswer
from light_tts.server.listening import is_news, listen

CHILD = """
import sys, time, types
from server.fake_engine import FakeEngine
from light_tts.errors import CheckpointError, LightTTSError
from light_tts.settings import ServerSettings, Settings

class TTSEngine(FakeEngine):
    @classmethod
    def load(cls, settings, events=None, progress=None):
        time.sleep({load_s})
        if {is_broken}:
            raise CheckpointError("model.pt is missing.")
        return cls(chunks={chunks}, delay_s=0.1)
    def warm_up(self):
        pass
    def preload_phrases(self):
        pass
    def close(self):
        print("engine closed", flush=True)

module = types.ModuleType("light_tts.engine")
module.TTSEngine = TTSEngine
sys.modules["light_tts.engine"] = module
from light_tts.server.api_server import run
try:
    sys.exit(run(Settings(server=ServerSettings(port={port}, drain_timeout_s={drain_s}, **{server}))))
except LightTTSError as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextlib.contextmanager
def child(*, load_s=0.0, chunks=10, drain_s=10.0, is_broken=False, **server):
    port = free_port()
    code = CHILD.format(load_s=load_s, chunks=chunks, port=port, drain_s=drain_s, is_broken=is_broken, server=server)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


def wait_for_status(url, status, timeout_s=20):
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(url).status_code == status:
                return
        time.sleep(0.02)
    raise AssertionError(f"{url} never answered {status}")


def wait_until_refused(url, timeout_s=20):
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            httpx2.get(url + "/liveness")
        except httpx2.TransportError:
            return
        time.sleep(0.02)
    raise AssertionError("the server still accepts connections")


def test_it_answers_while_loading_and_exits_with_0_when_told_to_stop():
    with child(load_s=1.5) as (process, url):
        wait_for_status(url + "/readiness", 503)
        assert httpx2.post(url + "/v1/audio/speech", json={"input": "a"}).json()["error"]["code"] == "not_ready"
        wait_for_status(url + "/readiness", 200)
        process.send_signal(signal.SIGTERM)
        output, log = process.communicate(timeout=15)
    assert process.returncode == 0, log
    assert "engine closed" in output
    assert "ready on http://127.0.0.1" in log


def test_a_running_request_is_finished_before_the_exit():
    with child() as (process, url):
        wait_for_status(url + "/readiness", 200)
        threading.Timer(0.4, process.send_signal, [signal.SIGTERM]).start()
        answer = httpx2.post(url + "/inference_zero_shot", data={"tts_text": "a", "stream": "true"})
        assert len(answer.content) == 2 * 48_000
        _, log = process.communicate(timeout=15)
    assert process.returncode == 0
    assert log.count("request done") == 1
    assert "finish=stop" in log


async def test_a_session_over_a_websocket_is_finished_before_the_exit():
    with child() as (process, url):
        await asyncio.to_thread(wait_for_status, url + "/readiness", 200)
        async with websockets.connect(url.replace("http", "ws") + "/inference_zero_shot_bistream") as session:
            await session.send('{"spk_id": "en_male", "tts_text": "one"}')
            assert await session.recv()
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(wait_until_refused, url)
            await session.send('{"tts_text": "two", "finish": true}')
            assert await session.recv()
            await session.wait_closed()
            assert session.close_code == 1000
        _, log = await asyncio.to_thread(process.communicate, timeout=15)
    assert process.returncode == 0, log


async def test_a_grpc_call_is_finished_before_the_exit():
    grpc = pytest.importorskip("grpc")
    from light_tts.server.grpc_messages import message_classes

    messages, port = message_classes(), free_port()
    request = messages["Request"]()
    request.sft_request.spk_id, request.sft_request.tts_text = "en_male", "hello"
    with child(grpc_port=port) as (process, url):
        await asyncio.to_thread(wait_for_status, url + "/readiness", 200)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method = channel.unary_stream(
                "/cosyvoice.CosyVoice/Inference",
                request_serializer=messages["Request"].SerializeToString,
                response_deserializer=messages["Response"].FromString,
            )
            heard = 0
            async for answer in method(request):
                if not heard:
                    process.send_signal(signal.SIGTERM)
                heard += len(answer.tts_audio)
        assert heard == 2 * 48_000
        _, log = await asyncio.to_thread(process.communicate, timeout=15)
    assert process.returncode == 0, log
    assert log.count("finish=stop") == 1
    assert "Traceback" not in log


async def test_sessions_have_no_longer_than_the_drain():
    with child(drain_s=0.2) as (process, url):
        await asyncio.to_thread(wait_for_status, url + "/readiness", 200)
        async with websockets.connect(url.replace("http", "ws") + "/inference_zero_shot_bistream") as session:
            await session.send('{"spk_id": "en_male"}')
            process.send_signal(signal.SIGTERM)
            await session.wait_closed()
            assert session.close_code == 1012
        await asyncio.to_thread(process.communicate, timeout=15)
    assert process.returncode == 0


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(second):
    with child(drain_s=600.0, chunks=100_000) as (process, url):
        wait_for_status(url + "/readiness", 200)

        def stop():
            process.send_signal(signal.SIGINT)
            wait_until_refused(url)
            process.send_signal(second)

        threading.Timer(0.2, stop).start()
        with pytest.raises(httpx2.TransportError):
            httpx2.post(url + "/inference_zero_shot", data={"tts_text": "a", "stream": "true"})
        process.communicate(timeout=15)
    assert process.returncode == 0


def test_an_ill_server_ends_itself_when_it_is_watched():
    with child(load_s=0.5, health_monitor=True, health_check_interval_s=0.1, debug_health_fails=True) as (process, _):
        _, log = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "health check 3 of 3 failed: debug_health_fails is set" in log
    assert log.index("ready on") < log.index("health check 1 of 3 failed")


def test_the_log_says_which_loop_runs():
    with child() as (process, url):
        wait_for_status(url + "/readiness", 200)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=15)
    assert "loop: uvloop" in log
    assert " debug " not in log.lower()


def test_the_drain_has_a_limit():
    with child(drain_s=0.1, chunks=50) as (process, url):
        wait_for_status(url + "/readiness", 200)
        threading.Timer(0.4, process.send_signal, [signal.SIGTERM]).start()
        with pytest.raises(httpx2.TransportError):
            httpx2.post(url + "/inference_zero_shot", data={"tts_text": "a", "stream": "true"})
        process.communicate(timeout=15)
    assert process.returncode == 0


def test_a_model_that_cannot_be_loaded_ends_the_server_with_its_sentence():
    with child(is_broken=True) as (process, _):
        _, log = process.communicate(timeout=15)
    assert process.returncode == 1
    assert log.strip().endswith("CheckpointError: model.pt is missing.")
    assert "Traceback" not in log


def test_a_taken_port_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Cannot listen on 127.0.0.1:{port}: Address already in use"):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match="cannot be resolved"):
        listen("no.such.host.invalid", 8080)


def test_a_name_with_addresses_of_both_kinds_listens_where_all_clients_can_reach_it(monkeypatch):
    kinds = [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")]
    found = [(family, socket.SOCK_STREAM, 6, "", (address, 0)) for family, address in kinds]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with listen("localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_what_the_requests_own_line_says_is_not_logged_twice():
    def entry(message, error=None):
        exc_info = (type(error), error, None) if error else None
        return logging.LogRecord("uvicorn.error", logging.INFO, "f", 1, message, (), exc_info)

    assert not is_news(entry("Exception in ASGI application\n", BrokenAnswer("cut")))
    assert not is_news(entry("Exception in ASGI application\n", asyncio.CancelledError()))
    assert not is_news(entry("Traceback ...\nasyncio.exceptions.CancelledError"))
    assert not is_news(entry('%s - "WebSocket %s" [accepted]'))
    assert not is_news(entry("connection open"))
    assert is_news(entry("Exception in ASGI application\n", ValueError("bug")))
    assert is_news(entry("Shutting down"))
