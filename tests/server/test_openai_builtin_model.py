"""The OpenAI surface with the built-in model behind it: real speech through the real client."""

import base64
import json

import httpx2
import openai
import pytest

from light_tts.assets import builtin_model_dir
from light_tts.engine import TTSEngine
from light_tts.server.app import create_app
from light_tts.settings import FrontendSettings, ModelSettings, Settings

from .conftest import serving

FIELDS = {"model": "tts-1", "voice": "alloy", "input": "Good morning.", "response_format": "pcm"}
SEED = {"seed": 3}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    settings = Settings(
        model=ModelSettings(cpu_threads=1), frontend=FrontendSettings(voices_dir=tmp_path_factory.mktemp("voices"))
    )
    with TTSEngine.load(settings) as engine, serving(create_app(engine, settings), settings) as url:
        yield url


@pytest.fixture(scope="module")
def sdk(url):
    with openai.OpenAI(base_url=url + "/v1", api_key="any", max_retries=0) as client:
        yield client


def test_speed_while_streaming_and_events_of_the_same_seed(sdk, url):
    with sdk.audio.speech.with_streaming_response.create(**FIELDS, extra_body=SEED) as answer:
        normal = b"".join(answer.iter_bytes())
    with sdk.audio.speech.with_streaming_response.create(**FIELDS, speed=2.0, extra_body=SEED) as answer:
        fast = b"".join(answer.iter_bytes())
    assert 24_000 < len(normal) < 5 * 48_000
    assert len(fast) == pytest.approx(len(normal) / 2, rel=0.05)
    events = httpx2.post(
        url + "/v1/audio/speech", json={**FIELDS, **SEED, "stream_format": "sse"}, timeout=60
    ).text.splitlines()
    *deltas, done = [json.loads(line.removeprefix("data: ")) for line in events if line]
    assert b"".join(base64.b64decode(event["audio"]) for event in deltas) == normal
    # 25 speech tokens make a second, whatever the speed.
    assert done["usage"]["output_tokens"] == pytest.approx(len(normal) / 48_000 * 25, abs=1)
    assert done["usage"]["input_tokens"] > 0


def test_a_voice_kept_by_the_client_speaks(sdk):
    data = (builtin_model_dir() / "prompts" / "en_male.wav").read_bytes()
    made = sdk.audio.voices.create(
        name="kept",
        audio_sample=("prompt.wav", data, "audio/wav"),
        consent="cons_1",
        extra_body={"ref_text": "Thank you for calling, your request has been received."},
    )
    answer = sdk.audio.speech.create(**{**FIELDS, "voice": {"id": made.id}}, instructions="Speak calmly.")
    assert len(answer.content) > 24_000
