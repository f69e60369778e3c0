"""CosyVoice's gRPC service with a real client on loopback, in front of the fake engine."""

import asyncio
import io
import socket
import sys
import wave

import pytest

from light_tts.audio_output import to_int16
from light_tts.errors import ConfigError, EngineFailure, Overloaded
from light_tts.server.app import create_app
from light_tts.server.asgi_call import AsgiCall
from light_tts.server.grpc_api import check_grpc
from light_tts.types import Mode

from .conftest import serving, with_server
from .fake_engine import sine

grpc = pytest.importorskip("grpc")
messages_module = pytest.importorskip("light_tts.server.grpc_messages")

MESSAGES = messages_module.message_classes()
WHOLE = to_int16(sine(1.0)).tobytes()
SAMPLES = b"\x01\x00\xff\x7f" * 8000
SFT = {"sft_request": {"spk_id": "en_male", "tts_text": "hello"}}
ZERO_SHOT = {"zero_shot_request": {"tts_text": "hello", "prompt_text": "so it says", "prompt_audio": SAMPLES}}
CROSS_LINGUAL = {"cross_lingual_request": {"tts_text": "hello", "prompt_audio": SAMPLES}}
INSTRUCT = {"instruct_request": {"tts_text": "hello", "spk_id": "en_male", "instruct_text": "Slowly."}}


@pytest.fixture
def grpc_settings(settings):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return with_server(settings, grpc_port=port)


@pytest.fixture
def target(engine, grpc_settings):
    with serving(create_app(engine, grpc_settings), grpc_settings):
        yield f"127.0.0.1:{grpc_settings.server.grpc_port}"


def method_of(channel):
    return channel.unary_stream(
        "/cosyvoice.CosyVoice/Inference",
        request_serializer=MESSAGES["Request"].SerializeToString,
        response_deserializer=MESSAGES["Response"].FromString,
    )


def request_of(payloads):
    request = MESSAGES["Request"]()
    for kind, fields in payloads.items():
        for name, value in fields.items():
            setattr(getattr(request, kind), name, value)
    return request


async def speak(target, payloads, **options):
    """All audio, and the call for what it says of itself."""
    async with grpc.aio.insecure_channel(target) as channel:
        call = method_of(channel)(request_of(payloads), **options)
        audio = [answer.tts_audio async for answer in call]
        return audio, dict(await call.initial_metadata())


async def refusal(target, payloads, **options):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await speak(target, payloads, **options)
    return error.value


@pytest.mark.parametrize(
    ("payloads", "mode"),
    [(SFT, None), (ZERO_SHOT, None), (CROSS_LINGUAL, Mode.CROSS_LINGUAL), (INSTRUCT, Mode.INSTRUCT)],
)
async def test_all_four_kinds_are_spoken_piece_by_piece(target, engine, payloads, mode):
    audio, metadata = await speak(target, payloads, metadata=[("x-request-id", "call-1")])
    assert b"".join(audio) == WHOLE
    assert len(audio) == 5
    assert (metadata["x-request-id"], metadata["x-sample-rate"]) == ("call-1", "24000")
    [request] = engine.requests
    assert (request.text, request.mode, request.request_id) == ("hello", mode, "call-1")
    if payloads in (ZERO_SHOT, CROSS_LINGUAL):
        with wave.open(io.BytesIO(request.voice.data)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
            assert file.readframes(10**6) == SAMPLES
    else:
        assert request.voice == "en_male"


def test_the_bytes_on_the_wire_are_those_of_the_published_contract():
    def field(number, value):
        return bytes([number << 3 | 2, len(value)]) + value

    expected = {
        "sft_request": field(1, field(1, b"a") + field(2, b"b")),
        "zero_shot_request": field(2, field(1, b"b") + field(2, b"p") + field(3, b"w")),
        "cross_lingual_request": field(3, field(1, b"b") + field(2, b"w")),
        "instruct_request": field(4, field(1, b"b") + field(2, b"a") + field(3, b"i")),
    }
    values = {"spk_id": "a", "tts_text": "b", "prompt_text": "p", "prompt_audio": b"w", "instruct_text": "i"}
    kinds = dict(zip(expected, list(messages_module.MESSAGES)[:4], strict=True))
    for kind, message in kinds.items():
        fields = {name: values[name] for _, name in messages_module.MESSAGES[message]}
        assert request_of({kind: fields}).SerializeToString() == expected[kind]
    assert MESSAGES["Response"](tts_audio=b"x").SerializeToString() == field(1, b"x")


@pytest.mark.parametrize(
    ("payloads", "code", "error_code"),
    [
        ({"sft_request": {"spk_id": "bob", "tts_text": "a"}}, "NOT_FOUND", "UNKNOWN_VOICE"),
        ({"sft_request": {"tts_text": "a"}}, "INVALID_ARGUMENT", "INVALID_FIELDS"),
        ({"sft_request": {"spk_id": "en_male", "tts_text": "  "}}, "INVALID_ARGUMENT", "EMPTY_TEXT"),
        ({"zero_shot_request": {"tts_text": "a", "prompt_text": "b"}}, "INVALID_ARGUMENT", "INVALID_FIELDS"),
        ({}, "INVALID_ARGUMENT", None),
    ],
)
async def test_faults_have_a_code_and_a_sentence(target, payloads, code, error_code):
    error = await refusal(target, payloads)
    assert error.code() is grpc.StatusCode[code]
    assert error.details()
    assert dict(error.trailing_metadata()).get("error-code") == error_code


async def test_failures_of_the_engine_and_a_full_server(target, engine):
    engine.error = Overloaded("The server is busy.", retry_after_s=2.5)
    busy = await refusal(target, SFT)
    assert busy.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(busy.trailing_metadata())["retry-after"] == "3"
    engine.error = EngineFailure("secret")
    for error_after in (0, 2):
        engine.error_after = error_after
        failed = await refusal(target, SFT)
        assert failed.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in failed.details()
    engine.ready = False
    assert (await refusal(target, SFT)).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_client_that_leaves_frees_its_work(target, engine):
    engine.stall_after = 1
    async with grpc.aio.insecure_channel(target) as channel:
        call = method_of(channel)(request_of(SFT))
        assert (await call.read()).tts_audio
        call.cancel()
        assert await asyncio.to_thread(engine.cancelled.wait, 5)
    assert not engine.running


async def test_keys_count_here_too(engine, grpc_settings):
    keyed = with_server(grpc_settings, api_key=("k",), grpc_port=grpc_settings.server.grpc_port)
    with serving(create_app(engine, keyed), keyed):
        target = f"127.0.0.1:{keyed.server.grpc_port}"
        assert (await refusal(target, SFT)).code() is grpc.StatusCode.UNAUTHENTICATED
        audio, _ = await speak(target, SFT, metadata=[("authorization", "Bearer k")])
    assert b"".join(audio) == WHOLE


async def test_large_answers_are_cut_to_what_clients_take(target, engine):
    engine.chunks, engine.chunk_s = 1, 120.0
    audio, _ = await speak(target, SFT)
    assert sum(map(len, audio)) == 120 * 48_000
    assert max(map(len, audio)) <= 2**20


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ConfigError, match=r"pip install 'light-tts\[grpc\]'"):
        check_grpc()


async def test_an_inner_request_waits_for_its_reader_and_notices_when_it_leaves(app, engine):
    engine.chunks = 100_000
    async with AsgiCall(app, "/inference_sft", {"tts_text": "a", "spk_id": "en_male", "stream": True}) as call:
        pieces = aiter(call)
        assert await anext(pieces)
    assert await asyncio.to_thread(engine.cancelled.wait, 5)
