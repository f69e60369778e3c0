"""What needs a real socket: chunks as they are made, cut connections, clients that leave, the OpenAI client."""

import asyncio
import io
import json
import socket
import threading
import time

import av
import httpx2
import openai
import pytest

from light_tts.audio_output import to_int16
from light_tts.errors import EngineFailure

from .fake_engine import sine

SPEECH = "/v1/audio/speech"
ZERO_SHOT = "/inference_zero_shot"
WHOLE = to_int16(sine(1.0)).tobytes()
FORMATS = ["mp3", "opus", "aac", "flac", "wav", "pcm"]


def seconds_of(data, name):
    if name == "pcm":
        return len(data) / 48_000
    with av.open(io.BytesIO(data)) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


def wait_for(condition, timeout_s=5.0):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.005)


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


@pytest.fixture
def sdk(base_url):
    with openai.OpenAI(base_url=base_url + "/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("name", FORMATS)
def test_openai_client_reads_whole_answers_and_streams(sdk, name):
    whole = sdk.audio.speech.create(model="tts-1", voice="alloy", input="hello", response_format=name).content
    with sdk.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="alloy", input="hello", response_format=name, instructions="calm"
    ) as answer:
        streamed = b"".join(answer.iter_bytes())
    for data in (whole, streamed):
        assert seconds_of(data, name) == pytest.approx(1.0, abs=0.13)


@pytest.mark.parametrize("name", FORMATS)
async def test_openai_async_client_streams(base_url, name):
    async with (
        openai.AsyncOpenAI(base_url=base_url + "/v1", api_key="any", max_retries=0) as client,
        client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="nova", input="hello", response_format=name
        ) as answer,
    ):
        data = b"".join([piece async for piece in answer.iter_bytes()])
    assert seconds_of(data, name) == pytest.approx(1.0, abs=0.13)


def test_openai_client_raises_the_right_exceptions(sdk, engine):
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.audio.speech.create(model="tts-1", voice="bob", input="hello")
    assert (bad.value.code, bad.value.param, bad.value.type) == ("voice_not_found", "voice", "invalid_request_error")
    assert bad.value.request_id
    with pytest.raises(openai.NotFoundError):
        sdk.audio.speech.create(model="unknown", voice="alloy", input="hello")
    engine.overloaded = True
    with pytest.raises(openai.InternalServerError) as full:
        sdk.audio.speech.create(model="tts-1", voice="alloy", input="hello")
    assert (full.value.status_code, full.value.code) == (503, "overloaded")


def test_openai_client_sees_that_an_answer_was_cut(sdk, engine):
    engine.error, engine.error_after = EngineFailure("broken"), 3
    with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
        sdk.audio.speech.create(model="tts-1", voice="alloy", input="hello")


def test_openai_client_lists_models_and_keeps_voices(sdk):
    assert [model.id for model in sdk.models.list()] == ["test-model", "tts-1"]
    made = sdk.audio.voices.create(
        name="mine", audio_sample=("a.wav", b"rec", "audio/wav"), consent="cons_1", extra_body={"ref_text": "words"}
    )
    assert made.id == "mine"
    assert sdk.audio.speech.create(model="tts-1", voice={"id": "mine"}, input="hello").content
