"""deploy/nginx.conf in a real nginx, in front of two servers: what a proxy can spoil, it leaves alone."""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx2
import pytest
import websockets

from light_tts.audio_output import to_int16
from light_tts.server.app import create_app
from light_tts.settings import Settings

from .conftest import serving
from .fake_engine import CHUNK_S, FakeEngine, sine, voice

CONFIG = (Path(__file__).parents[2] / "deploy" / "nginx.conf").read_text("utf-8")
NGINX = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
SHORT_CHUNK_S = 0.05  # 2,400 bytes: less than any buffer of a proxy
FORM = {"tts_text": "hello", "spk_id": "en_female", "stream": "true"}

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def rewritten(directory, port, server_ports):
    """The configuration as it is shipped, but for its ports, and with its files in a directory of the test."""
    assert CONFIG.count("listen 80;") == 1
    text = CONFIG.replace("listen 80;", f"listen 127.0.0.1:{port};")
    for shipped, ours in zip(("8080", "8081"), server_ports, strict=True):
        assert text.count(f"127.0.0.1:{shipped}") == 1
        text = text.replace(f"127.0.0.1:{shipped}", f"127.0.0.1:{ours}")
    text = re.sub(r"server 127\.0\.0\.1:8082 .*\n", "", text)
    # Our servers ask for no buffering themselves; here the proxy must do without that.
    ours = [f"{name}_temp_path {directory}/{name};" for name in TEMPORARY]
    ours += ["access_log off;", "proxy_ignore_headers X-Accel-Buffering;"]
    text = text.replace("http {\n", "http {\n" + "\n".join(ours) + "\n", 1)
    path = directory / "nginx.conf"
    path.write_text(text, "utf-8")
    return path


@pytest.fixture
def engines():
    return [FakeEngine(), FakeEngine()]


@pytest.fixture
def proxy(engines, tmp_path):
    """Address of the proxy."""
    settings = Settings()
    with (
        serving(create_app(engines[0], settings), settings) as first,
        serving(create_app(engines[1], settings), settings) as second,
    ):
        port = free_port()
        ports = [url.rpartition(":")[2] for url in (first, second)]
        config = rewritten(tmp_path, port, ports)
        options = f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;"
        if os.geteuid() == 0:  # its workers would become somebody who may not look into the test's directory
            options += " user root root;"
        process = subprocess.Popen([NGINX, "-p", tmp_path, "-c", config, "-e", tmp_path / "early.log", "-g", options])
        try:
            wait_until_open(port, process, tmp_path)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


def wait_until_open(port, process, directory):
    deadline_s = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError("".join(path.read_text() for path in directory.glob("*.log")))


def test_a_chunk_passes_while_the_next_is_still_to_be_made(proxy, engines):
    for engine in engines:
        engine.chunk_s, engine.stall_after = SHORT_CHUNK_S, 1
    url = f"http://{proxy}/inference_zero_shot"
    with httpx2.Client(timeout=20) as client, client.stream("POST", url, data=FORM) as answer:
        first = next(answer.iter_bytes())
    assert first == to_int16(sine(SHORT_CHUNK_S)).tobytes()[: len(first)]


def test_two_listeners_get_a_server_each(proxy, engines):
    for engine in engines:
        engine.stall_after = 1
    url = f"http://{proxy}/inference_zero_shot"
    with (
        httpx2.Client(timeout=20) as client,
        client.stream("POST", url, data=FORM) as one,
        client.stream("POST", url, data=FORM) as two,
    ):
        assert one.status_code == two.status_code == 200
    assert [len(engine.requests) for engine in engines] == [1, 1]


def test_a_full_server_passes_its_request_on(proxy, engines):
    engines[0].overloaded = True
    for _ in range(4):
        answer = httpx2.post(f"http://{proxy}/inference_zero_shot", data=FORM)
        assert answer.status_code == 200
    assert len(engines[1].requests) == 4


def test_when_all_are_full_their_own_answer_arrives(proxy, engines):
    engines[0].overloaded = engines[1].overloaded = True
    for _ in range(3):
        answer = httpx2.post(f"http://{proxy}/inference_zero_shot", data=FORM)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
        assert answer.json()["error_code"] == "OVERLOADED"


async def test_a_websocket_speaks_while_text_still_comes(proxy):
    async with asyncio.timeout(20), websockets.connect(f"ws://{proxy}/inference_zero_shot_bistream") as session:
        await session.send(json.dumps({"spk_id": "en_female"}))
        for _ in range(2):
            await session.send(json.dumps({"tts_text": "word "}))
            assert await session.recv() == to_int16(sine(CHUNK_S)).tobytes()
        await session.send(json.dumps({"finish": True}))
        with pytest.raises(websockets.ConnectionClosedOK):
            await session.recv()


def test_60_mb_are_too_much_and_never_reach_a_server(proxy, engines):
    with socket.create_connection(tuple(proxy.split(":")), timeout=20) as connection:
        head = f"POST /inference_zero_shot HTTP/1.1\r\nHost: test\r\nContent-Length: {60 * 2**20}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    assert not engines[0].requests + engines[1].requests


def test_a_recording_of_some_size_passes(proxy, engines):
    recording = bytes(4 * 2**20)
    files = {"prompt_wav": ("prompt.wav", recording)}
    answer = httpx2.post(f"http://{proxy}/inference_zero_shot", data={"tts_text": "hello"}, files=files)
    assert answer.status_code == 200
    [request] = engines[0].requests + engines[1].requests
    assert request.voice.data == recording


def test_json_is_compressed_and_audio_is_not(proxy, engines):
    for engine in engines:
        for number in range(100):
            engine.voices._voices[f"voice {number}"] = voice(f"voice {number}")
    wish = {"Accept-Encoding": "gzip"}
    voices = httpx2.get(f"http://{proxy}/voices", headers=wish)
    assert voices.headers["content-encoding"] == "gzip"
    assert len(voices.json()["voices"]) == 103
    speech = httpx2.post(f"http://{proxy}/inference_zero_shot", data=FORM, headers=wish)
    assert speech.status_code == 200
    assert "content-encoding" not in speech.headers


def test_metrics_of_a_random_server_are_not_to_be_had(proxy):
    assert httpx2.get(f"http://{proxy}/metrics").status_code == 404
    assert httpx2.get(f"http://{proxy}/readiness").status_code == 200
