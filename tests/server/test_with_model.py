"""The endpoints with the built-in model behind them: what only a real engine can show."""

import asyncio
import io
import math
import wave

import numpy as np
import pytest

from light_tts.assets import builtin_model_dir
from light_tts.engine import TTSEngine
from light_tts.server.app import create_app
from light_tts.settings import EngineSettings, FrontendSettings, ModelSettings, Settings

from .conftest import client_of

ZERO_SHOT = "/inference_zero_shot"
WORDS = "Thank you for calling, your request has been received."
RECORDING = (builtin_model_dir() / "prompts" / "en_male.wav").read_bytes()
PROMPT = {"prompt_wav": ("prompt.wav", RECORDING)}
LIMIT = 2


def recording_of(seconds, rate_hz=16_000):
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        noise = np.random.default_rng(1).normal(0, 2000, math.ceil(seconds * rate_hz))
        out.writeframes(noise.astype("<i2").tobytes())
    return file.getvalue()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(
        model=ModelSettings(device="cpu", cpu_threads=1),
        frontend=FrontendSettings(voices_dir=tmp_path_factory.mktemp("voices")),
        engine=EngineSettings(max_concurrent_requests=LIMIT),
    )


@pytest.fixture(scope="module")
def engine(settings):
    with TTSEngine.load(settings) as engine:
        yield engine


@pytest.fixture
async def client(engine, settings):
    async with client_of(create_app(engine, settings)) as client:
        yield client


async def test_over_the_limit_requests_are_refused_and_health_is_not(client):
    body = {"tts_text": "Your order is on its way, thank you.", "seed": 1}
    asked = [asyncio.ensure_future(client.post(ZERO_SHOT, json=body)) for _ in range(5)]
    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    health = await client.get("/health")
    answers = await asyncio.gather(*asked)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503]
    assert (health.status_code, health.json()["current_concurrent_requests"]) == (200, LIMIT)
    for answer in answers:
        if answer.status_code == 503:
            assert answer.json()["error_code"] == "OVERLOADED"
            assert int(answer.headers["retry-after"]) >= 1
    assert (await client.get("/health")).json()["current_concurrent_requests"] == 0


async def test_a_deep_health_check_is_not_refused_by_a_full_server(client, engine):
    streams = [engine.submit(request) for request in [_long_request()] * LIMIT]
    try:
        answer = await client.get("/health?deep=1")
        assert (answer.status_code, answer.json()["current_concurrent_requests"]) == (200, LIMIT)
        refused = await client.post(ZERO_SHOT, json={"tts_text": "Hello."})
        assert refused.status_code == 503
    finally:
        for stream in streams:
            stream.cancel()


def _long_request():
    from light_tts.types import SynthesisRequest

    return SynthesisRequest("This text is long, and it is spoken while others ask for more. " * 8, seed=1)


@pytest.mark.parametrize(
    ("path", "fields", "files"),
    [
        (ZERO_SHOT, {"prompt_text": WORDS}, PROMPT),
        ("/inference_cross_lingual", {}, PROMPT),
        ("/inference_instruct2", {"instruct_text": "Speak slowly."}, PROMPT),
        ("/inference_instruct", {"instruct_text": "Speak slowly.", "spk_id": "en_female"}, None),
        ("/inference_sft", {"spk_id": "en_female"}, None),
    ],
)
async def test_every_endpoint_speaks(client, path, fields, files):
    answer = await client.post(path, data={"tts_text": "Good morning.", "seed": "3", **fields}, files=files)
    assert answer.status_code == 200, answer.text
    samples = np.frombuffer(answer.content, "<i2")
    assert 0.4 * 24_000 < samples.size < 10 * 24_000
    assert np.abs(samples.astype(int)).max() > 1000


async def test_speed_changes_the_length_streamed_or_not(client):
    async def seconds(**fields):
        answer = await client.post(ZERO_SHOT, json={"tts_text": "Your order is on its way.", "seed": 2, **fields})
        return len(answer.content) / 48_000

    usual_s = await seconds()
    assert await seconds(speed=2.0) == pytest.approx(usual_s / 2, rel=0.1)
    assert await seconds(speed=2.0, stream=True) == pytest.approx(usual_s / 2, rel=0.15)


@pytest.mark.parametrize(
    ("recording", "status", "code", "message"),
    [
        (b"no audio at all", 400, "BAD_AUDIO", "audio file format is incorrect"),
        (recording_of(31), 400, "BAD_AUDIO", "longer than 30 s"),
        (recording_of(5, rate_hz=8000), 400, "BAD_AUDIO", "Hz"),
        (recording_of(0.1), 400, "BAD_AUDIO", "0.5"),
    ],
)
async def test_recordings_that_cannot_be_used_are_refused_and_hurt_nobody(client, recording, status, code, message):
    fields = {"tts_text": "Hello.", "prompt_text": WORDS}
    answer = await client.post(ZERO_SHOT, data=fields, files={"prompt_wav": ("a.wav", recording)})
    assert (answer.status_code, answer.json()["error_code"]) == (status, code)
    assert message in answer.json()["message"]
    assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize("text", ["", "   ", "。。！", "<|endofprompt|>"])
async def test_nothing_to_say_is_empty_text(client, text):
    answer = await client.post(ZERO_SHOT, json={"tts_text": text})
    assert (answer.status_code, answer.json()["error_code"]) == (400, "EMPTY_TEXT")
