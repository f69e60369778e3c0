"""AsyncSpeechClient against a real server: speech whole and streamed, forms, voices, errors, connections."""

import asyncio
import io
import socket
import wave

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from light_tts.audio_output import to_int16
from light_tts.client import (
    AnswerCut,
    AsyncSpeechClient,
    BadRequest,
    ConnectionProfile,
    NoConnection,
    NotAllowed,
    ServerBusy,
    ServerFailed,
    TimedOut,
    VoiceInfo,
)
from light_tts.errors import EngineFailure
from light_tts.server.app import create_app
from light_tts.settings import Settings
from tests.server.conftest import serving, wait_for, with_server
from tests.server.fake_engine import recording, sine

WHOLE = to_int16(sine(1.0)).tobytes()


@pytest.fixture
async def client(base_url):
    async with AsyncSpeechClient(base_url) as client:
        yield client


async def test_speak_gives_a_whole_file(client, engine):
    with wave.open(io.BytesIO(await client.speak("Hello."))) as file:
        assert (file.getframerate(), file.readframes(10**6)) == (24_000, WHOLE)
    assert engine.requests[0].stream is False


async def test_every_option_reaches_the_server(client, engine):
    await client.speak(
        "Hello.",
        "en_male",
        model="tts-1",
        response_format="mp3",
        speed=1.5,
        instructions="calmly",
        language="en",
        sample_rate=16_000,
        seed=7,
        extra={"user": "me", "lang_code": "en"},
    )
    await client.speak("Hello.", ref_audio=b"recording", ref_text="words")
    first, second = engine.requests
    assert (first.voice, first.speed, first.instruction) == ("en_male", 1.5, "calmly")
    assert (first.language, first.seed) == ("en", 7)
    assert (second.voice.data, second.voice.prompt_text) == (b"recording", "words")


async def test_a_stream_gives_pieces_with_their_times(client, engine):
    engine.delay_s = 0.02
    async with client.stream("Hello.", response_format="pcm") as speech:
        assert (speech.details.media_type, speech.details.sample_rate_hz) == ("audio/pcm", 24_000)
        assert speech.details.request_id
        assert speech.details.voice == "en_female"
        assert speech.details.first_audio_s is None
        pieces = [piece async for piece in speech]
    assert b"".join(piece.data for piece in pieces) == WHOLE
    times = [piece.arrived_s for piece in pieces]
    assert times == sorted(times)
    assert speech.details.first_audio_s == times[0]
    assert speech.details.total_s >= times[-1]


async def test_leaving_a_stream_stops_the_work(client, engine):
    engine.stall_after = 1
    async with client.stream("Hello.", response_format="pcm") as speech:
        await anext(speech)
        assert engine.running
    await asyncio.to_thread(wait_for, engine.cancelled.is_set)


async def test_what_goes_wrong_in_the_callers_block_stays_what_it_is(client):
    with pytest.raises(TimeoutError, match="mine") as raised:
        async with client.stream("Hello."):
            raise TimeoutError("mine")
    assert not isinstance(raised.value, TimedOut)


async def test_forms(client, engine):
    async with client.inference("sft", {"tts_text": "Hello.", "spk_id": "en_male"}) as speech:
        assert await speech.read() == WHOLE
    async with client.inference("zero_shot", {"tts_text": "Hi.", "prompt_text": "words"}, recording()) as speech:
        assert await speech.read() == WHOLE
    assert engine.requests[0].voice == "en_male"
    assert engine.requests[1].voice.data == recording()


async def test_voices(client, engine):
    assert [voice.name for voice in await client.voices()] == ["en_female", "en_male", "zh_female"]
    made = await client.add_voice("mine", recording(), "words", language="en", consent="yes")
    assert made == VoiceInfo("mine", "en", "audio_sample", 1_700_000_000)
    assert (engine.voices.get("mine").prompt_text, engine.voices.consents["mine"]) == ("words", "yes")
    await client.remove_voice("mine")
    with pytest.raises(BadRequest) as raised:
        await client.remove_voice("a/b")
    assert raised.value.status == 404


async def test_health(client, engine):
    assert (await client.health())["model"] == "test-model"
    engine.ready = False
    with pytest.raises(ServerBusy):
        await client.health()


async def test_refusals_say_why(client, engine):
    with pytest.raises(BadRequest, match="bob") as bad:
        await client.speak("Hello.", "bob")
    assert (bad.value.status, bad.value.code, bad.value.field) == (400, "voice_not_found", "voice")
    assert bad.value.request_id
    with pytest.raises(BadRequest) as form:
        async with client.inference("sft", {"tts_text": "Hello."}):
            pass
    assert (form.value.status, form.value.code) == (422, "INVALID_FIELDS")
    engine.overloaded = True
    with pytest.raises(ServerBusy) as busy:
        await client.speak("Hello.")
    assert (busy.value.code, busy.value.retry_after_s) == ("overloaded", 3.0)
    engine.overloaded, engine.error = False, EngineFailure("x")
    with pytest.raises(ServerFailed) as failed:
        await client.speak("Hello.")
    assert (failed.value.status, failed.value.code) == (500, "synthesis_failed")


async def test_a_cut_answer_is_no_whole_file(client, engine):
    engine.error, engine.error_after = EngineFailure("broken"), 3
    async with client.stream("Hello.", response_format="pcm") as speech:
        with pytest.raises(AnswerCut):
            await speech.read()
    assert speech.details.total_s is None


async def test_keys(engine):
    settings = with_server(Settings(), api_key=("secret",))
    with serving(create_app(engine, settings), settings) as url:
        async with AsyncSpeechClient(url) as nobody:
            with pytest.raises(NotAllowed) as refused:
                await nobody.speak("Hello.")
            assert refused.value.code == "invalid_api_key"
            with pytest.raises(NotAllowed):
                async with nobody.converse("en_male"):
                    pass
        async with AsyncSpeechClient(url + "/v1/", api_key="secret") as known:
            assert await known.speak("Hello.")


async def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", "nonsense"):
        async with AsyncSpeechClient(url) as client:
            with pytest.raises(NoConnection, match=url):
                await client.speak("Hello.")


@pytest.mark.parametrize("limits", [{"total_s": 0.05}, {"read_s": 0.05}])
async def test_time_limits(base_url, engine, limits):
    engine.stall_after = 1
    async with AsyncSpeechClient(base_url, profile=ConnectionProfile(**limits)) as client:
        with pytest.raises(TimedOut):
            await client.speak("Hello.")
    await asyncio.to_thread(wait_for, engine.cancelled.is_set)


async def test_connections_are_reused(client):
    for _ in range(5):
        await client.speak("Hello.")
    assert client.num_connections_opened == 1
    await asyncio.gather(*(client.speak("Hello.") for _ in range(4)))
    assert client.num_connections_opened <= 4


async def test_a_kept_connection_that_the_server_just_closed_is_replaced():
    """The server hangs up on the second request of each connection, as one does whose patience ended meanwhile."""
    seen = []

    async def answer(request):
        seen.append(request.transport)
        if seen.count(request.transport) > 1:
            request.transport.abort()
        return web.Response(body=b"audio")

    app = web.Application()
    app.router.add_post("/v1/audio/speech", answer)
    async with TestServer(app) as server, AsyncSpeechClient(str(server.make_url(""))) as client:
        for _ in range(3):
            assert await client.speak("Hello.") == b"audio"
        assert client.num_connections_opened == 3


@pytest.mark.parametrize(("header", "is_cached"), [("HIT", True), ("MISS", False), (None, None)])
async def test_short_texts(header, is_cached):
    bodies = []

    async def answer(request):
        bodies.append(await request.json())
        return web.Response(body=b"audio", headers={"X-Cache": header} if header else {})

    app = web.Application()
    app.router.add_post("/inference_short", answer)
    async with TestServer(app) as server, AsyncSpeechClient(str(server.make_url(""))) as client:
        speech = await client.speak_short("Hi.", "en_male", cache=False)
    assert bodies == [{"text": "Hi.", "voice_template": "en_male", "cache": False}]
    assert (speech.data, speech.is_cached) == (b"audio", is_cached)
    assert speech.total_s > 0
