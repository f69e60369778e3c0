"""What needs a real socket: chunks as they are made, cut connections, clients that leave, keep-alives."""

import asyncio
import json
import socket
import threading
import time

import httpx2
import pytest

from light_tts.audio_output import to_int16
from light_tts.errors import EngineFailure
from light_tts.server import audio_response

from .conftest import wait_for
from .fake_engine import sine

SPEECH = "/v1/audio/speech"
ZERO_SHOT = "/inference_zero_shot"
WHOLE = to_int16(sine(1.0)).tobytes()
FORMATS = ["mp3", "opus", "aac", "flac", "wav", "pcm"]


def sample(base_url, name):
    text = httpx2.get(base_url + "/metrics").text
    return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + " "))


@pytest.mark.parametrize("name", FORMATS)
def test_first_bytes_come_before_the_synthesis_ends(base_url, engine, name):
    engine.stall_after = 2
    with httpx2.stream("POST", base_url + SPEECH, json={"input": "hello", "response_format": name}) as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        pieces = answer.iter_raw()
        assert next(pieces)
        assert engine.running


def test_streamed_pcm_chunks_have_whole_samples(base_url):
    with httpx2.stream("POST", base_url + ZERO_SHOT, data={"tts_text": "hello", "stream": "true"}) as answer:
        pieces = list(answer.iter_raw())
    assert all(len(piece) % 2 == 0 for piece in pieces)
    assert b"".join(pieces) == WHOLE


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
@pytest.mark.parametrize("error", [EngineFailure("broken"), None], ids=["failure", "cancelled by the engine"])
def test_failure_after_the_first_byte_cuts_the_connection(base_url, engine, stream_format, error):
    engine.error_after, engine.error = 2, error
    if error is None:
        engine.stall_after = 2
        threading.Timer(0.2, lambda: engine.streams[0].cancel()).start()
    received = b""
    with (
        pytest.raises(httpx2.RemoteProtocolError),
        httpx2.stream("POST", base_url + SPEECH, json={"input": "a", "stream_format": stream_format}) as answer,
    ):
        assert answer.status_code == 200
        for piece in answer.iter_raw():
            received += piece
    assert received
    if stream_format == "sse":
        last = json.loads(received.decode().strip().splitlines()[-1].removeprefix("data: "))
        assert last["type"] == "error"
        assert last["error"]["message"]
    assert httpx2.get(base_url + "/liveness").status_code == 200
    wait_for(lambda: sample(base_url, "lightllm_request_failure_total") == 1)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", [ZERO_SHOT, SPEECH])
def test_a_client_that_leaves_frees_its_work_before_the_first_byte(base_url, engine, path, stream):
    engine.stall_after = 0
    body = json.dumps({"tts_text": "a", "input": "a", "stream": stream}).encode()
    check_that_leaving_cancels(base_url, engine, path, body, lambda connection: wait_for(lambda: engine.running))


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_counts_until_its_last_byte_is_taken(app, engine, stream):
    taken = asyncio.Event()
    body = json.dumps({"tts_text": "a", "stream": stream}).encode()

    incoming = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": body})

    async def send(message):
        if message["type"] == "http.response.body" and not message.get("more_body"):
            await taken.wait()

    scope = {"type": "http", "method": "POST", "path": ZERO_SHOT, "query_string": b"", "headers": []}
    answering = asyncio.create_task(app({**scope, "http_version": "1.1", "raw_path": b""}, incoming.get, send))
    await asyncio.to_thread(wait_for, lambda: engine.streams and engine.streams[0]._drained)
    assert not engine.streams[0]._is_left
    taken.set()
    await answering
    assert engine.streams[0]._is_left


def test_a_client_that_leaves_in_the_middle_frees_its_work(base_url, engine):
    engine.stall_after = 1
    body = b'{"input": "a", "response_format": "pcm"}'
    check_that_leaving_cancels(base_url, engine, SPEECH, body, lambda connection: connection.recv(100))


def check_that_leaving_cancels(base_url, engine, path, body, wait_until):
    host, port = base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        wait_until(connection)
    assert engine.cancelled.wait(5)
    assert not engine.running
    wait_for(lambda: sample(base_url, "tts_requests_aborted_total") == 1)
    assert sample(base_url, "tts_requests_in_flight") == 0


def test_a_client_that_leaves_while_sending_is_no_error(base_url, engine):
    host, port = base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST {SPEECH} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
        time.sleep(0.1)
    wait_for(lambda: sample(base_url, "tts_requests_aborted_total") == 1)
    assert not engine.requests


def test_many_at_once_each_hear_their_own(base_url, engine):
    engine.delay_s = 0.01

    async def ask(client, rate_hz):
        answer = await client.post(
            SPEECH, json={"input": "a", "response_format": "wav", "sample_rate": rate_hz, "stream": False}
        )
        return int.from_bytes(answer.content[24:28], "little"), answer.status_code

    async def ask_all():
        async with httpx2.AsyncClient(base_url=base_url, timeout=20) as client:
            rates = [8000, 16000, 24000, 48000] * 8
            return rates, await asyncio.gather(*(ask(client, rate) for rate in rates))

    rates, answers = asyncio.run(ask_all())
    assert answers == [(rate, 200) for rate in rates]


def test_events_keep_the_line_alive_while_nothing_comes(base_url, engine, monkeypatch):
    monkeypatch.setattr(audio_response, "PING_S", 0.02)
    engine.stall_after = 1
    received = b""
    with httpx2.stream("POST", base_url + SPEECH, json={"input": "a", "stream_format": "sse"}) as answer:
        for piece in answer.iter_raw():
            received += piece
            if received.count(b": ping\n\n") == 3:
                break
    assert received.startswith(b"data: ")
    assert engine.cancelled.wait(5)


def test_audio_has_no_place_for_keep_alives(base_url, engine, monkeypatch):
    monkeypatch.setattr(audio_response, "PING_S", 0.01)
    engine.delay_s = 0.05
    answer = httpx2.post(base_url + SPEECH, json={"input": "a", "response_format": "pcm"})
    assert answer.content == WHOLE
