"""What other programs send and need back, request by request as they do it (spec: openai_api, section 3)."""

import base64
import http.client
import json

import httpx2
import pytest

from light_tts.errors import EngineFailure
from light_tts.server.app import create_app
from light_tts.server.voice_aliases import CLOUD_VOICES

from .conftest import serving, with_server

SPEECH = "/v1/audio/speech"


def livekit_reads(answer):
    """Its reader: lines that begin with exactly `data: `, unknown events skipped, a clean end is success."""
    audio, usage = b"", None
    for line in answer.iter_lines():
        if not line.startswith("data: "):
            continue
        event = json.loads(line[len("data: ") :])
        if event.get("type") == "speech.audio.delta":
            audio += base64.b64decode(event.get("audio") or event["delta"])
        elif event.get("type") == "speech.audio.done":
            usage = event["usage"]
    return audio, usage


LIVEKIT = {"input": "Hello.", "voice": "ash", "response_format": "mp3", "speed": 1.0}
SDK_HEADERS = {
    "accept": "application/octet-stream",
    "accept-encoding": "gzip, deflate",
    "authorization": "Bearer key",
    "user-agent": "AsyncOpenAI/Python 2.54.0",
    "x-stainless-lang": "python",
    "x-stainless-retry-count": "0",
}


def test_livekit_with_its_defaults(base_url):
    assert httpx2.get(base_url + "/v1/", headers=SDK_HEADERS).status_code == 200  # its warm-up
    body = {**LIVEKIT, "model": "gpt-4o-mini-tts", "stream_format": "sse"}
    with httpx2.stream("POST", base_url + SPEECH, json=body, headers=SDK_HEADERS) as answer:
        assert answer.headers["content-type"].split(";")[0] == "text/event-stream"
        assert answer.headers["x-request-id"]
        audio, usage = livekit_reads(answer)
    plain = httpx2.post(base_url + SPEECH, json={**LIVEKIT, "model": "tts-1", "stream_format": "audio"})
    assert plain.headers["content-type"] == "audio/mpeg"
    assert audio == plain.content
    assert usage["input_tokens"] + usage["output_tokens"] == usage["total_tokens"] > 0


def test_livekit_notices_a_failure_by_the_cut(base_url, engine):
    engine.error, engine.error_after = EngineFailure("broken"), 2
    with (
        pytest.raises(httpx2.RemoteProtocolError),
        httpx2.stream("POST", base_url + SPEECH, json={**LIVEKIT, "stream_format": "sse"}) as answer,
    ):
        livekit_reads(answer)


@pytest.mark.parametrize("voice", CLOUD_VOICES)
async def test_pipecat_hears_24_khz_pcm_with_every_voice_it_allows(client, voice):
    body = {"input": "Hello.", "model": "gpt-4o-mini-tts", "voice": voice, "response_format": "pcm"}
    answer = await client.post(SPEECH, json=body, headers=SDK_HEADERS)
    assert answer.headers["content-type"].split(";")[0] == "audio/pcm"
    assert len(answer.content) == 48_000 * 1.0


async def test_pipecat_can_only_handle_400(client):
    for fields in ({"input": ""}, {"speed": "fast"}, {"voice": "bob"}, {"instructions": 5}):
        body = {"input": "Hello.", "voice": "alloy", "response_format": "pcm", **fields}
        assert (await client.post(SPEECH, json=body)).status_code == 400


async def test_open_webui_lists_without_a_key_and_speaks_with_one(engine, settings):
    with serving(create_app(engine, with_server(settings, api_key=("key",))), settings) as url:
        models = httpx2.get(url + "/v1/audio/models").json()["models"]
        voices = httpx2.get(url + "/v1/audio/voices").json()["voices"]
        assert all(each["id"] for each in models)
        assert {each["id"]: each["name"] for each in voices}["en_male"] == "en_male"
        body = {"input": "Hello.", "model": models[0]["id"], "normalization_options": {"a": 1}, "volume_multiplier": 2}
        headers = {"authorization": "Bearer key", "x-openwebui-user-name": "Ann", "x-openwebui-user-role": "user"}
        answer = httpx2.post(url + SPEECH, json=body, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/mpeg")
        refused = httpx2.post(url + SPEECH, json={**body, "voice": "bob"}, headers=headers)
        assert "bob" in refused.json()["error"]["message"]


SILLY_TAVERN = {"input": "Hello.", "response_format": "mp3", "voice": "alloy", "speed": 1, "model": "tts-1"}


def raw_post(url, headers, body):
    """Headers as they are: the clients of this package refuse to send a bare `Bearer `."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.request("POST", SPEECH, json.dumps(body), {"content-type": "application/json", **headers})
    answer = connection.getresponse()
    try:
        return answer.status, answer.headers["content-type"], answer.read()
    finally:
        connection.close()


def test_sillytavern_sends_an_empty_bearer(engine, settings):
    empty = {"authorization": "Bearer "}
    with serving(create_app(engine, settings), settings) as url:
        status, kind, audio = raw_post(url, empty, SILLY_TAVERN)
        assert (status, kind) == (200, "audio/mpeg")
        assert audio
    with serving(create_app(engine, with_server(settings, api_key=("key",))), settings) as url:
        status, _, body = raw_post(url, empty, SILLY_TAVERN)
        assert (status, json.loads(body)["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("name", ["mp3", "opus", "wav", "pcm", "flac", "aac"])
async def test_home_assistant_sends_the_word_none(client, engine, name):
    body = {
        "model": "gpt-4o-mini-tts",
        "voice": "marin",
        "input": "Hello.",
        "instructions": "None",
        "speed": 1.25,
        "response_format": name,
    }
    assert (await client.post(SPEECH, json=body, headers=SDK_HEADERS)).status_code == 200
    [request] = engine.requests
    assert (request.instruction, request.speed) == (None, 1.25)


@pytest.mark.parametrize(("name", "magic"), [("mp3", (b"\xff\xf3", b"\xff\xfb")), ("wav", (b"RIFF",))])
async def test_the_vercel_sdk_tells_the_type_by_the_first_bytes(client, name, magic):
    body = {"model": "tts-1", "input": "Hello.", "voice": "alloy", "response_format": name, "speed": 1.0}
    answer = await client.post(SPEECH, json=body, headers={"accept": "*/*"})
    assert answer.content.startswith(magic)


async def test_curl_declares_a_form_and_names_no_model(client):
    answer = await client.post(
        SPEECH, content=b'{"input": "Hello."}', headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert answer.status_code == 200
    missing = await client.post(SPEECH, content=b"input=Hello.", headers={"content-type": "application/json"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (400, "invalid_json")
