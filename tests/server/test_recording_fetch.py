"""Recordings by address: off unless set, only from hosts that are allowed, never further than the first answer."""

import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from light_tts.errors import BadAudio, Unsupported
from light_tts.server.app import create_app
from light_tts.server.errors import RequestTooLarge
from light_tts.server.recording_fetch import fetch_recording, is_address
from light_tts.settings import FrontendSettings

from .conftest import asgi_client, with_server
from .fake_engine import recording

WAV = recording()


class Files(BaseHTTPRequestHandler):
    def do_GET(self):
        status, body = {"/a.wav": (200, WAV), "/large": (200, bytes(2 * 2**20)), "/moved": (302, b"")}.get(
            self.path, (404, b"")
        )
        self.send_response(status)
        if status == 302:
            self.send_header("location", "/a.wav")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def port():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def allowing(settings, *hosts):
    return replace(with_server(settings, ref_audio_hosts=hosts), frontend=FrontendSettings(max_upload_mb=1))


async def test_a_listed_host_may_be_anywhere(settings, port):
    for host in ("127.0.0.1", "localhost"):
        allowed = allowing(settings, "elsewhere.example", host)
        assert await fetch_recording(f"http://{host}:{port}/a.wav", "ref_audio", allowed) == WAV


@pytest.mark.parametrize("path", ["/moved", "/missing"])
async def test_only_the_first_answer_counts(settings, port, path):
    with pytest.raises(BadAudio, match="answered"):
        await fetch_recording(f"http://127.0.0.1:{port}{path}", "ref_audio", allowing(settings, "127.0.0.1"))


async def test_sizes_are_limited(settings, port):
    with pytest.raises(RequestTooLarge):
        await fetch_recording(f"http://127.0.0.1:{port}/large", "ref_audio", allowing(settings, "127.0.0.1"))


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://127.0.0.1:{port}/a.wav", Unsupported),
        ("http://[::1]:{port}/a.wav", Unsupported),
        ("http://10.0.0.1/a.wav", Unsupported),
        ("http://169.254.169.254/latest", Unsupported),
        ("http://localhost:{port}/a.wav", BadAudio),  # a name of an address that is not public
        ("http://2130706433:{port}/a.wav", BadAudio),  # 127.0.0.1 as a number
        ("http:///a.wav", Unsupported),
        ("http://[broken/a.wav", Unsupported),
        ("ftp://example.com/a.wav", Unsupported),
        ("file:///etc/passwd", Unsupported),
    ],
)
async def test_any_public_host_excludes_this_network(settings, port, url, error):
    with pytest.raises(error):
        await fetch_recording(url.format(port=port), "ref_audio", allowing(settings, "*"))


async def test_names_that_do_not_resolve_are_a_clear_error(settings, monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(-2, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(BadAudio, match="could not be fetched"):
        await fetch_recording("http://nowhere.example/a.wav", "ref_audio", allowing(settings, "*"))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("http://x", True),
        ("FILE:///x", True),
        (" https://x", True),
        ("data:audio/wav;base64,AAAA", False),
        ("UklGRiQ", False),
    ],
)
def test_what_counts_as_an_address(text, verdict):
    assert is_address(text) is verdict


async def test_over_the_api(engine, settings, port):
    body = {"input": "a", "ref_audio": f"http://127.0.0.1:{port}/a.wav?signature={'x' * 1000}"}
    async with asgi_client(create_app(engine, settings)) as client:
        refused = await client.post("/v1/audio/speech", json=body)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (400, "unsupported", "ref_audio")
    body["ref_audio"] = f"http://127.0.0.1:{port}/a.wav"
    async with asgi_client(create_app(engine, with_server(settings, ref_audio_hosts=("127.0.0.1",)))) as client:
        assert (await client.post("/v1/audio/speech", json={**body, "ref_text": "words"})).status_code == 200
        missing = await client.post("/v1/audio/speech", json={**body, "ref_audio": body["ref_audio"] + "x"})
        assert (missing.status_code, missing.json()["error"]["param"]) == (400, "ref_audio")
        busy_with_nothing = await client.post("/v1/audio/speech", json={**body, "input": ""})
        assert busy_with_nothing.json()["error"]["param"] == "input"
    [request] = engine.requests
    assert (request.voice.data, request.voice.prompt_text) == (WAV, "words")
