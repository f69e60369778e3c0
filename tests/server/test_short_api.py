"""`/inference_short`: a short text in a registered voice, and what its answer says of the cache."""

import io
import wave
from dataclasses import replace

import pytest

from light_tts.server.app import create_app
from light_tts.settings import Settings, ShortTextSettings

from .conftest import client_of, with_server
from .fake_engine import FakeEngine, FakeVoices, voice

SHORT = "/inference_short"


async def test_a_text_alone_is_answered_whole_as_wav(client, engine):
    answer = await client.post(SHORT, json={"text": "您好"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "audio/wav"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["x-cache"] == "MISS"
    with wave.open(io.BytesIO(answer.content)) as audio:
        assert (audio.getframerate(), audio.getnchannels(), audio.getnframes()) == (24_000, 1, 24_000)
    [request] = engine.requests
    assert (request.text, request.voice, request.stream) == ("您好", "zh_female", False)
    assert request.phrase_cache is True


@pytest.mark.parametrize(("cached", "header"), [(True, "HIT"), (False, "MISS"), (None, "MISS")])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_header_says_what_the_engine_found(client, engine, cached, header, stream):
    engine.phrase_cached = cached
    answer = await client.post(SHORT, json={"text": "Hello.", "stream": stream})
    assert answer.headers["x-cache"] == header


async def test_other_endpoints_say_it_only_when_the_cache_was_asked(client, engine):
    plain = await client.post("/inference_zero_shot", data={"tts_text": "a"})
    assert "x-cache" not in plain.headers
    assert engine.requests[-1].phrase_cache is None
    engine.phrase_cached = True
    for path, body in (("/inference_zero_shot", {"tts_text": "a"}), ("/v1/audio/speech", {"input": "a"})):
        assert (await client.post(path, json=body)).headers["x-cache"] == "HIT"


async def test_fields_and_their_other_names(client, engine):
    for body in ({"text": "a", "voice_template": "en_male"}, {"tts_text": "a", "spk_id": "en_male"}):
        assert (await client.post(SHORT, json=body)).status_code == 200
        assert engine.requests[-1].voice == "en_male"
    form = {"text": "a", "speed": "1.5", "response_format": "pcm", "sample_rate": "8000", "stream": "True", "seed": "3"}
    answer = await client.post(SHORT, data=form)
    request = engine.requests[-1]
    assert (request.speed, request.stream, request.seed) == (1.5, True, 3)
    assert answer.headers["x-sample-rate"] == "8000"
    assert (await client.post(SHORT + "/", json={"text": "a"})).status_code == 200


@pytest.mark.parametrize(("given", "expected"), [(None, True), (True, True), (False, False), ("false", False)])
async def test_the_cache_is_used_unless_the_request_says_otherwise(client, engine, given, expected):
    await client.post(SHORT, json={"text": "a"} | ({} if given is None else {"cache": given}))
    assert engine.requests[-1].phrase_cache is expected
    await client.post("/inference_zero_shot", json={"tts_text": "a"} | ({} if given is None else {"cache": given}))
    assert engine.requests[-1].phrase_cache is (None if expected else False)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"text": "x" * 101}, 400, "TEXT_TOO_LONG"),
        ({"text": "……"}, 400, "EMPTY_TEXT"),
        ({}, 422, "INVALID_FIELDS"),
        ({"text": "a", "voice_template": "nobody"}, 404, "UNKNOWN_VOICE"),
        ({"text": "a", "voice_template": 7}, 422, "INVALID_FIELDS"),
        ({"text": "a", "prompt_wav": "AAAA"}, 400, "UNSUPPORTED"),
        ({"text": "a", "tts_text": "b"}, 400, "CONFLICTING_FIELDS"),
        ({"text": "a", "speed": 9}, 400, "INVALID_VALUE"),
    ],
)
async def test_what_is_refused(client, body, status, code):
    answer = await client.post(SHORT, json=body)
    assert (answer.status_code, answer.json()["error_code"]) == (status, code)


async def test_the_longest_text_is_a_setting(engine):
    settings = Settings(short_text=ShortTextSettings(short_text_max_chars=3))
    async with client_of(engine, settings) as client:
        assert (await client.post(SHORT, json={"text": "abc"})).status_code == 200
        assert (await client.post(SHORT, json={"text": "abcd"})).json()["error_code"] == "TEXT_TOO_LONG"


async def test_the_voice_of_requests_that_name_none(settings):
    async def voice_of(voices, **server):
        engine = FakeEngine()
        engine.voices = voices
        async with client_of(engine, with_server(settings, **server)) as client:
            answer = await client.post(SHORT, json={"text": "hello"})
            return answer, engine.requests[0].voice if engine.requests else None

    nobody, _ = await voice_of(FakeVoices())
    assert (nobody.status_code, nobody.json()["error_code"]) == (400, "NO_DEFAULT_VOICE")
    assert (await voice_of(FakeVoices(voice("anna"))))[1] == "anna"
    two = FakeVoices(voice("anna"), voice("bert"))
    assert (await voice_of(two, default_voice="bert"))[1] == "bert"


async def test_a_busy_server_refuses_as_everywhere(client, engine):
    engine.overloaded = True
    answer = await client.post(SHORT, json={"text": "a"})
    assert (answer.status_code, answer.json()["error_code"]) == (503, "OVERLOADED")
    assert answer.headers["retry-after"]


def test_the_schema_names_the_fields(engine, settings):
    schema = create_app(engine, replace(settings)).openapi()["paths"][SHORT]["post"]["requestBody"]["content"]
    assert {"text", "voice_template", "cache", "speed"} <= set(schema["application/json"]["schema"]["properties"])
