"""`/v1/audio/voices`: lists in the forms that clients read, uploads, removal; in-process."""

import pytest

from light_tts.audio_output import FORMATS, encode_complete
from light_tts.server.app import create_app
from light_tts.server.voice_aliases import CLOUD_VOICES

from .conftest import asgi_client, with_server
from .fake_engine import recording, sine

VOICES = "/v1/audio/voices"
NAMES = ["en_female", "en_male", "zh_female"]


def upload(name="mine", audio=None, **fields):
    audio = recording() if audio is None else audio
    return {"data": {"name": name, **fields}, "files": {"audio_sample": ("a.wav", audio, "audio/wav")}}


async def test_voices_are_objects_under_both_keys(client, app):
    listed = (await client.get(VOICES)).json()
    assert listed["object"] == "list"
    assert listed["voices"] == listed["data"]
    assert listed["data"][2] == {
        "id": "zh_female",
        "name": "zh_female",
        "object": "audio.voice",
        "created_at": app.state.server.created_at,
        "language": "zh",
        "type": "audio_sample",
    }
    assert [each["id"] for each in listed["data"]] == NAMES


async def test_names_alone_for_those_who_ask(client):
    assert (await client.get(f"{VOICES}?legacy=true")).json() == {"voices": NAMES}
    wrong = await client.get(f"{VOICES}?legacy=maybe")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "legacy")


@pytest.mark.parametrize(("model", "names"), [("tts-1", NAMES), ("test-model", NAMES), ("kokoro", [])])
async def test_voices_of_a_model(client, model, names):
    listed = (await client.get(VOICES, params={"model": model})).json()
    assert [each["id"] for each in listed["voices"]] == names


async def test_aliases_are_listed_only_where_that_is_set(engine, settings):
    changed = with_server(settings, list_voice_aliases=True, voice_aliases=("nova=zh_female", "teller=en_male"))
    async with asgi_client(create_app(engine, changed)) as client:
        listed = {each["id"]: each for each in (await client.get(VOICES)).json()["voices"]}
        assert list(listed) == [*NAMES, *CLOUD_VOICES, "teller"]
        assert (listed["nova"]["language"], listed["nova"]["name"]) == ("zh", "nova")
        for name in ("nova", "teller", "alloy"):
            assert (await client.post("/v1/audio/speech", json={"input": "a", "voice": name})).status_code == 200
    assert [request.voice for request in engine.requests] == ["zh_female", "en_male", "en_female"]


async def test_a_voice_is_uploaded_used_and_removed(client, engine):
    form = upload(ref_text="words", consent="cons_123", language="English")
    made = (await client.post(VOICES, **form)).json()
    assert made == {
        "id": "mine",
        "name": "mine",
        "object": "audio.voice",
        "created_at": 1_700_000_000,
        "language": "en",
        "type": "audio_sample",
    }
    assert engine.voices.get("mine").prompt_text == "words"
    assert engine.voices.consents == {"mine": "cons_123"}
    again = await client.post(VOICES, **form)
    assert (again.status_code, again.json()["error"]["param"]) == (400, "name")
    assert (await client.post("/v1/audio/speech", json={"input": "a", "voice": "mine"})).status_code == 200
    gone = await client.delete(f"{VOICES}/mine")
    assert gone.json() == {"id": "mine", "object": "audio.voice.deleted", "deleted": True}
    assert (await client.delete(f"{VOICES}/mine")).status_code == 404
    assert (await client.post("/v1/audio/speech", json={"input": "a", "voice": "mine"})).status_code == 400


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "pcm"])
async def test_every_common_container_is_taken(client, name):
    assert (await client.post(VOICES, **upload(audio=encode_complete(sine(4.0), name)))).status_code == 200


@pytest.mark.parametrize(
    ("form", "code", "param"),
    [
        (upload(type="prompt"), "unsupported", "type"),
        (upload(audio=b"no recording"), "invalid_value", "audio_sample"),
        (upload(audio=recording(2.5)), "invalid_value", "audio_sample"),
        (upload(audio=recording(31.0)), "invalid_value", "audio_sample"),
        ({"data": {"name": "x"}}, "invalid_value", "audio_sample"),
        ({"files": {"audio_sample": ("a.wav", b"x")}}, "invalid_value", "name"),
        (upload(name="en_male"), "invalid_value", "name"),
        (upload(language="xx"), "invalid_value", "language"),
        (upload(ref_text="x" * 5001), "string_above_max_length", "ref_text"),
    ],
)
async def test_uploads_that_cannot_be_used(client, engine, form, code, param):
    answer = await client.post(VOICES, **form)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert engine.voices.names() == NAMES
