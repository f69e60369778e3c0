"""Text piece by piece over a WebSocket, from both clients."""

import asyncio
import threading

import pytest

from light_tts.caller_limits import CallerLimits
from light_tts.client import AnswerCut, AsyncSpeechClient, BadRequest, ServerBusy, SpeechClient
from light_tts.errors import EngineFailure, Overloaded
from light_tts.server.app import create_app
from light_tts.settings import Settings
from tests.server.conftest import serving, wait_for, with_server

CHUNK_BYTES = 9600  # the engine speaks 0.2 s per word


@pytest.fixture
async def client(base_url):
    async with AsyncSpeechClient(base_url) as client:
        yield client


async def test_audio_comes_while_text_still_goes_in(client, engine):
    async with client.converse("en_male", seed=3) as talk:
        await talk.say("one ")
        first = await anext(talk)
        assert engine.streams[0].fed == ["one "]
        await talk.say_all(["two ", "three"])
        rest = [piece async for piece in talk]
    assert len(first.data) + sum(len(piece.data) for piece in rest) == 3 * CHUNK_BYTES
    assert first.arrived_s <= rest[-1].arrived_s
    assert (talk.timings["audio_s"], talk.timings["chunks"]) == (0.6, 3)
    [request] = engine.requests
    assert (request.voice, request.seed) == ("en_male", 3)


async def test_text_may_come_from_an_asynchronous_source(client, engine):
    async def words():
        for word in ("one ", "two "):
            await asyncio.sleep(0)
            yield word

    async with client.converse("en_male") as talk, asyncio.TaskGroup() as tasks:
        tasks.create_task(talk.say_all(words()))
        assert len(b"".join([piece.data async for piece in talk])) == 2 * CHUNK_BYTES


async def test_a_recording_in_place_of_a_name(client, engine):
    async with client.converse(prompt_wav=b"recording", prompt_text="words") as talk:
        await talk.say_all(["one"])
        assert [piece async for piece in talk]
    assert (engine.requests[0].voice.data, engine.requests[0].voice.prompt_text) == (b"recording", "words")


async def test_flush_and_cancel(client, engine):
    engine.hold_text = True
    async with client.converse("en_male") as talk:
        await talk.say("one")
        await talk.flush()
        assert len((await anext(talk)).data) == CHUNK_BYTES
        await talk.say("two")
        await talk.cancel()
        await talk.finish()
        assert [piece async for piece in talk] == []
    assert ("discard",) in engine.streams[0].calls


async def test_leaving_frees_the_session(client, engine):
    async with client.converse("en_male") as talk:
        await talk.say("one")
        await anext(talk)
    await asyncio.to_thread(wait_for, engine.cancelled.is_set)


@pytest.mark.parametrize(
    ("failure", "kind", "code"),
    [(Overloaded("full"), ServerBusy, "OVERLOADED"), (EngineFailure("x"), None, "INFERENCE_FAILED")],
)
async def test_failures_come_with_the_servers_code(client, engine, failure, kind, code):
    engine.error = failure
    with pytest.raises(kind or Exception) as raised:
        async with client.converse("en_male") as talk:
            async for _ in talk:
                pass
    assert raised.value.code == code
    assert raised.value.status in (1011, 1013)


async def test_a_bad_opening_is_a_bad_request(client):
    with pytest.raises(BadRequest, match="bob") as raised:
        async with client.converse("bob") as talk:
            await anext(talk)
    assert (raised.value.code, raised.value.status) == ("UNKNOWN_VOICE", 1008)


async def test_a_connection_that_is_gone_is_an_error(client, engine):
    async with client.converse("en_male") as talk:
        await talk.say("one")
        await anext(talk)
        talk._socket._response.connection.transport.abort()
        with pytest.raises(AnswerCut):
            await anext(talk)


def test_one_thread_sends_while_another_listens(base_url, engine):
    with SpeechClient(base_url) as client, client.converse("en_male") as talk:
        sender = threading.Thread(target=talk.say_all, args=(["one ", "two ", "three"],))
        sender.start()
        audio = b"".join(piece.data for piece in talk)
        sender.join()
    assert len(audio) == 3 * CHUNK_BYTES
    assert talk.timings["chunks"] == 3


async def test_a_key_has_its_share_of_sessions_too(engine):
    engine.callers = CallerLimits(1, 0)
    settings = with_server(Settings(), api_key=("secret",))
    with serving(create_app(engine, settings), settings) as url:
        async with AsyncSpeechClient(url, api_key="secret") as client, client.converse("en_male") as first:
            await first.say("one ")
            await anext(first)
            with pytest.raises(ServerBusy) as refused:
                async with client.converse("en_male") as second:
                    await anext(second)
            assert (refused.value.code, refused.value.status) == ("RATE_LIMITED", 1013)
            with pytest.raises(ServerBusy) as spoken:
                await client.speak("Hello.")
            assert (spoken.value.code, spoken.value.status) == ("rate_limit_exceeded", 429)
            assert spoken.value.retry_after_s >= 1.0
