"""`/voices`: register, list, remove; in-process, and with the built-in model through a restart."""

import base64
import pickletools

import pytest

from light_tts.assets import builtin_model_dir
from light_tts.engine import TTSEngine
from light_tts.server.app import create_app
from light_tts.settings import FrontendSettings, ModelSettings, Settings

from .conftest import client_of

RECORDING = (builtin_model_dir() / "prompts" / "en_male.wav").read_bytes()
WORDS = "Thank you for calling, your request has been received."


async def names(client):
    return [voice["name"] for voice in (await client.get("/voices")).json()["voices"]]


async def test_voices_are_listed(client):
    listed = (await client.get("/voices/")).json()["voices"]
    assert listed[0] == {
        "name": "en_female",
        "language": "en",
        "prompt_text": "hello",
        "has_transcript": True,
        "kind": "recording",
    }


async def test_register_by_form_and_json_then_remove_in_three_ways(client):
    files = {"prompt_wav": ("a.wav", RECORDING)}
    by_form = await client.post("/voices", data={"name": "one", "prompt_text": WORDS, "language": "en"}, files=files)
    assert by_form.status_code == 201
    assert by_form.json()["voice"]["prompt_text"] == WORDS
    packed = base64.b64encode(RECORDING).decode()
    for name in ("two", "three"):
        assert (await client.post("/voices", json={"name": name, "prompt_wav": packed})).status_code == 201
    assert {"one", "two", "three"} <= set(await names(client))
    assert (await client.delete("/voices/one")).json() == {"message": "Ok", "name": "one"}
    assert (await client.delete("/voices", params={"name": "two"})).status_code == 200
    assert (await client.request("DELETE", "/voices", json={"name": "three"})).status_code == 200
    assert not {"one", "two", "three"} & set(await names(client))


@pytest.mark.parametrize(
    ("method", "path", "data", "status", "code"),
    [
        ("POST", "/voices", {}, 422, "INVALID_FIELDS"),
        ("POST", "/voices", {"name": "x"}, 422, "INVALID_FIELDS"),
        ("POST", "/voices", {"name": "en_male", "prompt_wav": "AAAA"}, 400, "INVALID_VALUE"),
        ("POST", "/voices", {"name": "x", "prompt_wav": "AAAA", "language": "klingon"}, 400, "INVALID_VALUE"),
        ("DELETE", "/voices", {}, 422, "INVALID_FIELDS"),
        ("DELETE", "/voices/nobody", {}, 404, "UNKNOWN_VOICE"),
    ],
)
async def test_faults_are_named(client, method, path, data, status, code):
    answer = await client.request(method, path, json=data)
    assert (answer.status_code, answer.json()["error_code"]) == (status, code)


async def test_a_registered_voice_survives_a_restart_without_pickle(tmp_path):
    settings = Settings(
        model=ModelSettings(device="cpu", cpu_threads=1), frontend=FrontendSettings(voices_dir=tmp_path, threads=1)
    )
    files = {"prompt_wav": ("a.wav", RECORDING)}
    with TTSEngine.load(settings) as engine:
        async with client_of(create_app(engine, settings)) as client:
            answer = await client.post("/voices", data={"name": "mine", "prompt_text": WORDS}, files=files)
            assert answer.status_code == 201, answer.text
            for name in ("../up", "en_male", ""):
                refused = await client.post("/voices", data={"name": name}, files=files)
                assert refused.status_code in (400, 422)
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match=r"opcode|exhausted|at position"):
            list(pickletools.genops(path.read_bytes()))
    with TTSEngine.load(settings) as engine:
        async with client_of(create_app(engine, settings)) as client:
            assert (await names(client))[-1] == "mine"
            spoken = await client.post("/inference_sft", data={"tts_text": "Hello.", "spk_id": "mine", "seed": "1"})
            assert len(spoken.content) > 10_000
            assert (await client.delete("/voices/mine")).status_code == 200
            built_in = await client.delete("/voices/en_male")
            assert (built_in.status_code, built_in.json()["error_code"]) == (400, "INVALID_VALUE")
    assert not list(tmp_path.iterdir())
