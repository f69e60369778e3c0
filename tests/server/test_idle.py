"""A server that nobody asks for anything: what it costs, and how many may stay connected meanwhile."""

import contextlib
import resource
import socket
import threading
import time

import httpx2
import pytest

from light_tts.engine import TTSEngine
from light_tts.server.app import create_app
from light_tts.settings import FrontendSettings, ModelSettings, ServerSettings, Settings

from .conftest import serving, with_server

CONNECTIONS = 1000
WATCHED_S = 2.0
IDLE_SHARE = 0.05


@pytest.mark.slow
def test_an_idle_server_takes_next_to_no_processor_time(tmp_path):
    """The least of a few looks: what other tests left behind may still be busy. Polling every 5 ms would fail all."""
    settings = Settings(
        model=ModelSettings(device="cpu", cpu_threads=1), frontend=FrontendSettings(voices_dir=tmp_path)
    )
    with TTSEngine.load(settings) as engine, serving(create_app(engine, settings), settings) as url:
        answer = httpx2.post(url + "/v1/audio/speech", json={"input": "Hello.", "voice": "en_female"}, timeout=60)
        assert answer.status_code == 200
        shares = []
        for _ in range(3):
            before_s = time.process_time()
            threading.Event().wait(WATCHED_S)
            shares.append((time.process_time() - before_s) / WATCHED_S)
            if shares[-1] < IDLE_SHARE:
                break
    assert min(shares) < IDLE_SHARE


def test_a_thousand_idle_connections_keep_nobody_out(engine):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * CONNECTIONS + 500  # both ends are in this process
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"this machine allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    settings = with_server(Settings(), keep_alive_s=ServerSettings().keep_alive_s + 60)
    try:
        with serving(create_app(engine, settings), settings) as url, contextlib.ExitStack() as stack:
            address = ("127.0.0.1", int(url.rpartition(":")[2]))
            for _ in range(CONNECTIONS):
                idle = stack.enter_context(socket.create_connection(address, timeout=20))
            idle.sendall(b"GET /liveness HTTP/1.1\r\nHost: test\r\n\r\n")  # the last one has been accepted
            assert idle.recv(100).startswith(b"HTTP/1.1 200 ")
            answer = httpx2.post(url + "/inference_short", json={"text": "hello"}, timeout=20)
            assert answer.status_code == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
