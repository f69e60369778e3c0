"""`/v1/audio/speech`, voices and models, in-process."""

import base64
import io
import json

import av
import pytest

from light_tts.audio_output import to_int16
from light_tts.errors import EngineFailure
from light_tts.server.voice_aliases import CLOUD_VOICES

from .fake_engine import FakeVoices, sine, voice

PATH = "/v1/audio/speech"
WHOLE = to_int16(sine(1.0)).tobytes()
TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg; codecs=opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


def seconds_of(data):
    with av.open(io.BytesIO(data)) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


def events_of(answer):
    assert all(line.startswith("data: ") for line in answer.text.splitlines() if line)
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line]


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("stream", [None, True, False])
async def test_every_format_streamed_and_complete(client, engine, name, stream):
    answer = await client.post(PATH, json={"input": "hello", "response_format": name, "stream": stream})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == TYPES[name]
    assert answer.headers["content-disposition"] == f'attachment; filename="speech.{name}"'
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in answer.headers
    assert ("content-length" in answer.headers) == (stream is False)
    assert engine.requests[0].stream == (stream is not False)
    if name == "pcm":
        assert answer.content == WHOLE
    else:
        assert seconds_of(answer.content) == pytest.approx(1.0, abs=0.13)


async def test_the_default_is_streamed_mp3_whatever_the_content_type(client):
    answer = await client.post(PATH, content=b'{"input": "hello", "response_format": null}')
    assert answer.headers["content-type"] == "audio/mpeg"


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("stream", [True, False])
async def test_events_carry_the_same_file(client, name, stream):
    fields = {"input": "hello", "response_format": name, "stream": stream}
    plain = await client.post(PATH, json=fields)
    answer = await client.post(PATH, json={**fields, "stream_format": "sse"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *deltas, done = events_of(answer)
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    joined = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    if name == "opus":  # the muxer draws a serial number for each stream
        assert seconds_of(joined) == seconds_of(plain.content)
    else:
        assert joined == plain.content
    assert done == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 5, "output_tokens": 25, "total_tokens": 30},
    }


async def test_known_fields_reach_the_engine_and_unknown_ones_are_ignored(client, engine):
    answer = await client.post(
        PATH,
        json={
            "model": "tts-1",
            "input": "hello",
            "voice": {"id": "en_male"},
            "speed": 4,
            "instructions": " calmly ",
            "lang_code": "a",
            "seed": 7,
            "sample_rate": 16000,
            "response_format": "pcm",
            "user": "me",
            "task_type": {"nested": [1]},
        },
    )
    assert answer.status_code == 200
    [request] = engine.requests
    assert (request.voice, request.speed, request.instruction) == ("en_male", 4.0, "calmly")
    assert (request.language, request.seed, request.model) == ("en", 7, "default")
    assert answer.headers["x-audio-sample-rate"] == "16000"
    assert answer.headers["content-type"] == "audio/pcm; rate=16000; channels=1"
    assert len(answer.content) == pytest.approx(32_000, abs=200)


@pytest.mark.parametrize("words", ["None", "", "   ", None])
async def test_instructions_that_mean_none(client, engine, words):
    await client.post(PATH, json={"input": "hello", "instructions": words})
    assert engine.requests[0].instruction is None


async def test_a_voice_that_cannot_be_instructed_speaks_all_the_same(client, engine):
    engine.voices = FakeVoices(voice("preset", num_tokens=0))
    answer = await client.post(PATH, json={"input": "hello", "voice": "preset", "instructions": "calmly"})
    assert (answer.status_code, engine.requests[0].instruction) == (200, None)


@pytest.mark.parametrize("name", [*CLOUD_VOICES, "default", "", None])
async def test_cloud_names_always_resolve(client, engine, name):
    for text in ("hello", "你好"):
        assert (await client.post(PATH, json={"input": text, "voice": name})).status_code == 200
    assert [request.voice for request in engine.requests] == ["en_female", "zh_female"]


async def test_with_one_voice_every_cloud_name_means_it_and_a_registered_name_wins(client, engine):
    engine.voices = FakeVoices(voice("mine", "ko"))
    await client.post(PATH, json={"input": "hello", "voice": "nova"})
    engine.voices = FakeVoices(voice("mine"), voice("nova"))
    await client.post(PATH, json={"input": "hello", "voice": "nova"})
    assert [request.voice for request in engine.requests] == ["mine", "nova"]


async def test_one_off_cloning(client, engine):
    packed = base64.b64encode(b"recording").decode()
    for ref_audio in (packed, f"data:audio/wav;base64,{packed}"):
        fields = {"input": "hello", "voice": "alloy", "ref_audio": ref_audio, "ref_text": "words"}
        assert (await client.post(PATH, json=fields)).status_code == 200
    for request in engine.requests:
        assert (request.voice.data, request.voice.prompt_text) == (b"recording", "words")


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({}, 400, "invalid_value", "input"),
        ({"input": "  "}, 400, "invalid_value", "input"),
        ({"input": "?!"}, 400, "invalid_value", "input"),
        ({"input": 5}, 400, "invalid_value", "input"),
        ({"input": "a" * 5001}, 400, "string_above_max_length", "input"),
        ({"input": "a", "voice": "bob"}, 400, "voice_not_found", "voice"),
        ({"input": "a", "voice": {"name": "x"}}, 400, "invalid_value", "voice"),
        ({"input": "a", "model": "gpt-9"}, 404, "model_not_found", "model"),
        ({"input": "a", "response_format": "au"}, 400, "unsupported_format", "response_format"),
        ({"input": "a", "speed": 4.1}, 400, "invalid_value", "speed"),
        ({"input": "a", "speed": 0.24}, 400, "invalid_value", "speed"),
        ({"input": "a", "stream_format": "xml"}, 400, "invalid_value", "stream_format"),
        ({"input": "a", "sample_rate": 7999}, 400, "invalid_value", "sample_rate"),
        ({"input": "a", "sample_rate": 9000}, 400, "unsupported", "sample_rate"),
        ({"input": "a", "ref_audio": "http://example.com/a.wav"}, 400, "unsupported", "ref_audio"),
        ({"input": "a", "ref_audio": "file:///etc/passwd"}, 400, "unsupported", "ref_audio"),
        ({"input": "a", "ref_audio": "AAAA", "voice": "bob"}, 400, "voice_not_found", "voice"),
        ({"input": "a", "ref_audio": "AAAA", "voice": "en_male"}, 400, "invalid_value", "ref_audio"),
    ],
)
async def test_bad_requests_have_the_body_the_sdks_read(client, engine, fields, status, code, param):
    answer = await client.post(PATH, json=fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert len(engine.requests) <= 1


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b""])
async def test_bodies_that_are_no_json_object(client, body):
    answer = await client.post(PATH, content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


async def test_failures_of_the_server(client, engine):
    engine.error = EngineFailure("at /secret")
    answer = await client.post(PATH, json={"input": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "synthesis_failed")
    assert "secret" not in answer.text
    engine.overloaded = True
    answer = await client.post(PATH, json={"input": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert answer.headers["retry-after"] == "3"
