"""Requests as published clients write them, with the libraries they use, against a real server on loopback."""

import asyncio
import json
import shutil
import socket
import subprocess
import wave

import aiohttp
import numpy as np
import pytest
import requests
import websockets

from light_tts.audio_output import to_int16
from light_tts.server.app import create_app

from .conftest import serving, with_server
from .fake_engine import CHUNK_S, sine

WHOLE = to_int16(sine(1.0)).tobytes()
WORD = to_int16(sine(CHUNK_S)).tobytes()
RECORDING = b"RIFF....not really a recording"


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "prompt.wav"
    path.write_bytes(RECORDING)
    return path


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("stream", [True, False])
def test_lighttts_zero_shot_with_requests(base_url, engine, recording, stream, slash):
    with recording.open("rb") as file:
        answer = requests.post(
            f"{base_url}/inference_zero_shot{slash}",
            data={"tts_text": "hello", "prompt_text": "so it says", "tts_model_name": "default", "stream": stream},
            files={"prompt_wav": ("prompt.wav", file, "audio/wav")},
            stream=True,
            timeout=20,
        )
        audio = b"".join(answer.iter_content(chunk_size=1024))
    assert answer.status_code == 200
    assert np.frombuffer(audio, dtype=np.int16).size == 24_000
    assert audio == WHOLE
    assert engine.requests[0].stream is stream


def test_the_a10_guide_with_curl_saves_a_file_that_players_open(base_url, recording, tmp_path):
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    output = tmp_path / "output.wav"
    form = ["-F", "text=你好", "-F", f"prompt_audio=@{recording}", "-F", "language=zh", "-F", "streaming=true"]
    command = [curl, "-sS", "-X", "POST", f"{base_url}/inference_zero_shot", *form, "--output", str(output)]
    subprocess.run(command, check=True, timeout=20)
    with wave.open(str(output)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        assert file.readframes(10**6) == WHOLE


def test_the_a10_guide_with_requests_hears_the_first_piece_early(base_url, engine, recording):
    engine.stall_after = 2
    with (
        recording.open("rb") as file,
        requests.post(
            f"{base_url}/inference_zero_shot",
            files={"prompt_audio": file},
            data={"text": "hello", "language": "zh", "streaming": True},
            stream=True,
            timeout=20,
        ) as answer,
    ):
        assert answer.headers["content-type"] == "audio/wav"
        pieces = answer.iter_content(chunk_size=4096)  # one that is dropped closes the connection
        assert next(pieces)[:4] == b"RIFF"
        assert engine.running, "the rest has not been spoken yet"


@pytest.mark.parametrize(
    ("mode", "fields"),
    [
        ("sft", {"tts_text": "hello", "spk_id": "en_male"}),
        ("instruct", {"tts_text": "hello", "spk_id": "en_male", "instruct_text": "Slowly."}),
        ("zero_shot", {"tts_text": "hello", "prompt_text": "so it says"}),
        ("cross_lingual", {"tts_text": "hello"}),
        ("instruct2", {"tts_text": "hello", "instruct_text": "Slowly."}),
    ],
)
def test_cosyvoices_own_client_sends_get_with_a_form_body(base_url, recording, mode, fields):
    url = f"{base_url}/inference_{mode}"
    if mode in ("sft", "instruct"):
        answer = requests.request("GET", url, data=fields, stream=True, timeout=20)
    else:
        with recording.open("rb") as file:
            files = [("prompt_wav", ("prompt_wav", file, "application/octet-stream"))]
            answer = requests.request("GET", url, data=fields, files=files, stream=True, timeout=20)
    audio = b"".join(answer.iter_content(chunk_size=16_000))
    assert answer.status_code == 200, audio
    assert np.array(np.frombuffer(audio, dtype=np.int16)).size == 24_000


async def test_aiohttp_reads_a_stream_as_it_comes(base_url, recording):
    form = aiohttp.FormData()
    form.add_field("tts_text", "hello")
    form.add_field("prompt_text", "so it says")
    form.add_field("stream", "true")
    form.add_field("prompt_wav", recording.read_bytes(), filename="prompt.wav", content_type="audio/wav")
    async with aiohttp.ClientSession() as session, session.post(f"{base_url}/inference_zero_shot", data=form) as answer:
        assert answer.status == 200
        assert b"".join([piece async for piece in answer.content.iter_any()]) == WHOLE


async def test_lighttts_bistream_with_websockets(base_url, engine):
    """Text is sent while audio is received, as a language model would write it."""
    url = base_url.replace("http", "ws") + "/inference_zero_shot_bistream"
    async with websockets.connect(url, max_size=None, ping_interval=None) as session:

        async def write():
            await session.send(json.dumps({"prompt_text": "so it says", "tts_model_name": "default"}))
            await session.send(RECORDING)
            for piece in ("one two ", "three ", "four"):
                await session.send(json.dumps({"tts_text": piece}))
                await asyncio.sleep(0.01)
            await session.send(json.dumps({"finish": True}))

        writing = asyncio.create_task(write())
        audio = b"".join([message async for message in session])
        await writing
    assert audio == WORD * 4
    assert engine.requests[0].voice.data == RECORDING


async def test_bistream_with_aiohttp_and_the_text_in_the_last_message(base_url):
    url = f"{base_url}/inference_zero_shot_bistream"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        await socket.send_json({"prompt_text": "so it says"})
        await socket.send_bytes(RECORDING)
        await socket.send_json({"tts_text": "one two", "finish": True})
        messages = [message async for message in socket]
        assert b"".join(message.data for message in messages) == WORD * 2
        assert socket.close_code == 1000


async def test_a_message_over_the_limit_closes_with_1009(base_url, engine):
    url = base_url.replace("http", "ws") + "/inference_zero_shot_bistream"
    async with websockets.connect(url, max_size=None) as session:
        await session.send(json.dumps({"prompt_text": "so it says"}))
        await session.send(bytes(17 * 2**20))
        await session.wait_closed()
        assert session.close_code == 1009
    assert not engine.requests


async def test_an_idle_session_gets_pings_and_ends_when_nobody_answers(engine, settings):
    changed = with_server(settings, ws_ping_interval_s=0.1, ws_ping_timeout_s=0.2)
    with serving(create_app(engine, changed), changed) as base_url:
        url = f"{base_url}/inference_zero_shot_bistream"
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(url, autoping=False) as socket:
                for _ in range(2):
                    ping = await socket.receive(timeout=10)
                    assert ping.type is aiohttp.WSMsgType.PING
                    await socket.pong(ping.data)
            async with session.ws_connect(url, autoping=False) as socket:
                kinds = [(await socket.receive(timeout=10)).type for _ in range(2)]
                assert kinds == [aiohttp.WSMsgType.PING, aiohttp.WSMsgType.CLOSE]
                assert socket.close_code == 1011


def test_an_idle_connection_is_closed_after_the_keep_alive(engine, settings):
    changed = with_server(settings, keep_alive_s=1)
    with serving(create_app(engine, changed), changed) as base_url:
        host, port = base_url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            for _ in range(2):
                connection.sendall(b"GET /liveness HTTP/1.1\r\nHost: test\r\n\r\n")
                assert b"200 OK" in connection.recv(4096)
            assert connection.recv(4096) == b""


def test_60_megabytes_are_too_many(base_url, engine):
    answer = requests.post(
        f"{base_url}/inference_zero_shot",
        data={"tts_text": "hello"},
        files={"prompt_wav": ("prompt.wav", bytes(60 * 2**20))},
        timeout=30,
    )
    assert (answer.status_code, answer.json()["error_code"]) == (413, "REQUEST_TOO_LARGE")
    assert not engine.requests
