"""`/inference_sft`, `/inference_cross_lingual`, `/inference_instruct`, `/inference_instruct2`, in-process."""

import pytest

from light_tts.audio_output import to_int16
from light_tts.types import Mode

from .conftest import client_of, with_server
from .fake_engine import sine

WHOLE = to_int16(sine(1.0)).tobytes()
RECORDING = b"RIFF....not really a recording"

SFT = ("/inference_sft", {"tts_text": "hello", "spk_id": "en_male"})
CROSS_LINGUAL = ("/inference_cross_lingual", {"tts_text": "hello", "prompt_wav": RECORDING})
INSTRUCT = ("/inference_instruct", {"tts_text": "hello", "spk_id": "en_male", "instruct_text": "Slowly."})
INSTRUCT2 = ("/inference_instruct2", {"tts_text": "hello", "instruct_text": "Slowly.", "prompt_wav": RECORDING})
ALL = (SFT, CROSS_LINGUAL, INSTRUCT, INSTRUCT2)


def form(fields):
    files = {name: ("prompt.wav", value) for name, value in fields.items() if isinstance(value, bytes)}
    return {"data": {name: value for name, value in fields.items() if name not in files}, "files": files or None}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("path", "fields"), ALL)
async def test_both_methods_answer_pcm_as_it_comes(client, engine, method, path, fields):
    answer = await client.request(method, path, **form(fields))
    assert answer.status_code == 200
    assert answer.content == WHOLE
    assert answer.headers["content-type"] == "audio/pcm"
    assert answer.headers["x-sample-rate"] == "24000"
    assert "content-length" not in answer.headers
    [request] = engine.requests
    assert not request.stream  # each sentence is made as a whole


@pytest.mark.parametrize(
    ("endpoint", "mode", "instruction"),
    [(SFT, None, None), (CROSS_LINGUAL, Mode.CROSS_LINGUAL, None), (INSTRUCT, Mode.INSTRUCT, "Slowly."),
     (INSTRUCT2, Mode.INSTRUCT, "Slowly.")],
)  # fmt: skip
async def test_each_asks_for_its_own_mode(client, engine, endpoint, mode, instruction):
    path, fields = endpoint
    await client.post(path, **form(fields))
    [request] = engine.requests
    assert (request.mode, request.instruction) == (mode, instruction)
    if "spk_id" in fields:
        assert request.voice == "en_male"
    else:
        assert request.voice.data == RECORDING


@pytest.mark.parametrize(("path", "fields"), ALL)
async def test_the_optional_fields_work_here_too(client, engine, path, fields):
    options = {"stream": "true", "speed": "1.5", "seed": "7", "response_format": "wav", "sample_rate": "22050"}
    answer = await client.post(path, **form({**fields, **options}))
    assert answer.content[:4] == b"RIFF"
    assert answer.headers["x-sample-rate"] == "22050"
    [request] = engine.requests
    assert (request.stream, request.speed, request.seed) == (True, 1.5, 7)
    whole = await client.post(path, **form({**fields, "stream": "false"}))
    assert int(whole.headers["content-length"]) == len(WHOLE)


@pytest.mark.parametrize(("path", "fields"), ALL)
async def test_what_is_missing_is_named(client, engine, path, fields):
    for missing in fields:
        answer = await client.post(path, **form({name: fields[name] for name in fields if name != missing}))
        assert answer.status_code == 422
        assert [entry["loc"] for entry in answer.json()["detail"]] == [["body", missing]]
    assert not engine.requests


@pytest.mark.parametrize("endpoint", [SFT, INSTRUCT])
async def test_an_unknown_voice_is_a_404_with_the_list(client, endpoint):
    path, fields = endpoint
    answer = await client.post(path, data={**fields, "spk_id": "中文女"})
    assert (answer.status_code, answer.json()["error_code"]) == (404, "UNKNOWN_VOICE")
    assert "en_female, en_male, zh_female" in answer.json()["message"]


@pytest.mark.parametrize("endpoint", [CROSS_LINGUAL, INSTRUCT2])
async def test_a_registered_voice_may_stand_for_the_recording(client, engine, endpoint):
    path, fields = endpoint
    fields = {name: value for name, value in fields.items() if name != "prompt_wav"}
    await client.post(path, data={**fields, "zero_shot_spk_id": "zh_female"})
    await client.post(path, json={**fields, "prompt_wav": "zh_female"})
    assert [request.voice for request in engine.requests] == ["zh_female", "zh_female"]


async def test_strict_mode_refuses_speed_only_where_audio_is_streamed(engine, settings):
    strict = client_of(engine, with_server(settings, strict_lighttts=True))
    async with strict as client:
        path, fields = SFT
        assert (await client.post(path, data={**fields, "speed": "1.5"})).status_code == 200
        refused = await client.post(path, data={**fields, "speed": "1.5", "stream": "true"})
    assert (refused.status_code, refused.json()["message"]) == (
        400,
        "speed change only support non-stream inference mode",
    )
