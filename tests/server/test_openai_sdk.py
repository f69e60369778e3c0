"""The `openai` package itself against a real socket: files, streams, exceptions, retries, lists, voices."""

import io
import json

import av
import httpx2
import openai
import pytest

from light_tts.caller_limits import CallerLimits
from light_tts.errors import DeadlineExceeded, EngineFailure
from light_tts.server.app import create_app

from .conftest import serving, with_server
from .fake_engine import recording

FORMATS = ["mp3", "opus", "aac", "flac", "wav", "pcm"]
HELLO = {"model": "tts-1", "voice": "alloy", "input": "hello"}


@pytest.fixture
def sdk(base_url):
    with openai.OpenAI(base_url=base_url + "/v1", api_key="any", max_retries=0) as client:
        yield client


def seconds_of(data, name):
    if name == "pcm":
        return len(data) / 48_000
    with av.open(io.BytesIO(data)) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


@pytest.mark.parametrize("name", FORMATS)
def test_whole_answers_and_streams(sdk, name, tmp_path):
    whole = sdk.audio.speech.create(**HELLO, response_format=name)
    whole.write_to_file(tmp_path / "speech")
    with sdk.audio.speech.with_streaming_response.create(**HELLO, response_format=name, speed=4.0) as answer:
        streamed = b"".join(answer.iter_bytes())
    for data in (whole.content, streamed, (tmp_path / "speech").read_bytes()):
        assert seconds_of(data, name) == pytest.approx(1.0, abs=0.13)


@pytest.mark.parametrize("name", FORMATS)
async def test_async_streams_begin_before_the_synthesis_ends(base_url, engine, name):
    engine.stall_after = 2
    async with (
        openai.AsyncOpenAI(base_url=base_url + "/v1", api_key="any", max_retries=0) as client,
        client.audio.speech.with_streaming_response.create(**HELLO, response_format=name) as answer,
    ):
        async for piece in answer.iter_bytes():
            assert piece
            assert engine.running
            break
    assert engine.cancelled.wait(5)


def test_events_come_as_text(sdk):
    answer = sdk.audio.speech.create(**HELLO, stream_format="sse", instructions="calm")
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert [event["type"] for event in events] == ["speech.audio.delta"] * (len(events) - 1) + ["speech.audio.done"]


@pytest.mark.parametrize(
    ("fields", "kind", "code", "param"),
    [
        ({"voice": "bob"}, openai.BadRequestError, "voice_not_found", "voice"),
        ({"input": " "}, openai.BadRequestError, "invalid_value", "input"),
        ({"speed": 9}, openai.BadRequestError, "invalid_value", "speed"),
        ({"response_format": "au"}, openai.BadRequestError, "unsupported_format", "response_format"),
        ({"input": "a" * 5001}, openai.BadRequestError, "string_above_max_length", "input"),
        ({"model": "unknown"}, openai.NotFoundError, "model_not_found", "model"),
    ],
)
def test_mistakes_raise_the_right_exception(sdk, fields, kind, code, param):
    with pytest.raises(kind) as raised:
        sdk.audio.speech.create(**{**HELLO, **fields})
    error = raised.value
    assert (error.code, error.param, error.type) == (code, param, "invalid_request_error")
    assert error.body["message"]
    assert error.request_id == error.response.headers["x-request-id"]


def test_failures_of_the_server_raise_the_right_exception(sdk, engine):
    engine.overloaded = True
    with pytest.raises(openai.InternalServerError) as full:
        sdk.audio.speech.create(**HELLO)
    assert (full.value.status_code, full.value.code) == (503, "overloaded")
    assert full.value.response.headers["retry-after"] == "3"
    engine.overloaded = False
    for failure, status, code in (
        (EngineFailure("x"), 500, "synthesis_failed"),
        (DeadlineExceeded("late"), 504, "timeout"),
    ):
        engine.error = failure
        with pytest.raises(openai.InternalServerError) as failed:
            sdk.audio.speech.create(**HELLO)
        assert (failed.value.status_code, failed.value.code, failed.value.type) == (status, code, "server_error")


@pytest.mark.parametrize(("failure", "attempts"), [(EngineFailure("always"), 1), (DeadlineExceeded("late"), 3)])
def test_only_failures_that_may_pass_are_tried_again(base_url, engine, failure, attempts, monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    engine.error = failure
    with openai.OpenAI(base_url=base_url + "/v1", api_key="any") as client, pytest.raises(openai.InternalServerError):
        client.audio.speech.create(**HELLO)
    assert len(engine.requests) == attempts


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_that_was_cut_raises(sdk, engine, is_streamed):
    engine.error, engine.error_after = EngineFailure("broken"), 3
    with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
        if is_streamed:
            with sdk.audio.speech.with_streaming_response.create(**HELLO) as answer:
                list(answer.iter_bytes())
        else:
            sdk.audio.speech.create(**HELLO)


def test_keys_and_their_limits(engine, settings):
    changed = with_server(settings, api_key=("secret",), admin_key=("root",))
    engine.callers = CallerLimits(0, 1)
    with serving(create_app(engine, changed), changed) as url:

        def sdk(key):
            return openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0)

        with sdk("wrong") as client, pytest.raises(openai.AuthenticationError) as wrong:
            client.audio.speech.create(**HELLO)
        assert (wrong.value.code, wrong.value.type) == ("invalid_api_key", "authentication_error")
        assert wrong.value.response.headers["www-authenticate"] == "Bearer"
        with sdk("secret") as client:
            assert client.audio.speech.create(**HELLO).content
            with pytest.raises(openai.RateLimitError) as limited:
                client.audio.speech.create(**HELLO)
            assert (limited.value.code, limited.value.type) == ("rate_limit_exceeded", "rate_limit_error")
            assert int(limited.value.response.headers["retry-after"]) > 0
            with pytest.raises(openai.PermissionDeniedError) as forbidden:
                client.audio.voices.create(name="x", audio_sample=("a.wav", recording(), "audio/wav"), consent="c")
            assert (forbidden.value.code, forbidden.value.type) == ("forbidden", "permission_error")
        with sdk("root") as client:
            client.audio.voices.create(name="x", audio_sample=("a.wav", recording(), "audio/wav"), consent="c")


def test_models_and_voices(sdk, engine):
    assert [model.id for model in sdk.models.list()] == ["test-model", "tts-1"]
    assert sdk.models.retrieve("tts-1").owned_by == "light-tts"
    made = sdk.audio.voices.create(
        name="mine",
        audio_sample=("a.wav", recording(), "audio/wav"),
        consent="cons_1",
        extra_body={"ref_text": "words"},
    )
    assert (made.id, made.name, made.object) == ("mine", "mine", "audio.voice")
    assert engine.voices.consents["mine"] == "cons_1"
    assert sdk.audio.speech.create(model="tts-1", voice={"id": "mine"}, input="hello").content
    assert engine.requests[0].voice == "mine"
