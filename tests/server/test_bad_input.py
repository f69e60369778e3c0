"""Bad input against the real engine: a clear 4xx with the error body of its surface, and the server goes on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction

import av
import httpx2
import numpy as np
import pytest

from light_tts.engine import TTSEngine
from light_tts.server.app import create_app
from light_tts.settings import FrontendSettings, Settings


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    settings = Settings(frontend=FrontendSettings(voices_dir=tmp_path_factory.mktemp("voices")))
    with TTSEngine.load(settings) as engine:
        yield create_app(engine, settings)


@pytest.fixture
async def client(app):
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app), base_url="http://test", timeout=60
    ) as client:
        yield client


def audio_file(container: str, codec: str, seconds: float, rate_hz: int = 24000) -> bytes:
    """Silence, encoded."""
    sink = io.BytesIO()
    with av.open(sink, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate_hz, layout="mono")
        block = np.zeros((1, rate_hz), np.int16)
        for second in range(int(seconds)):
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, second * rate_hz, Fraction(1, rate_hz)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return sink.getvalue()


def video_file() -> bytes:
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(10):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        output.mux(stream.encode(None))
    return sink.getvalue()


RECORDINGS = {
    "empty": lambda: b"",
    "junk": lambda: bytes(range(256)) * 40,
    "html": lambda: b"<!DOCTYPE html><html><body>404</body></html>",
    "truncated_wav": lambda: audio_file("wav", "pcm_s16le", 4)[:5000],
    "header_only": lambda: audio_file("wav", "pcm_s16le", 4)[:44],
    "two_hours": lambda: audio_file("flac", "flac", 7200, 16000),
    "low_rate": lambda: audio_file("wav", "pcm_s16le", 4, 8000),
    "too_short": lambda: audio_file("wav", "pcm_s16le", 1)[: 44 + 2 * 4800],
    "video": video_file,
}

TEXTS = {
    "empty": "",
    "blank": " \t\n ",
    "punctuation": "。。。！？ ...",
    "one_megabyte": "好" * (1 << 20),
}


def check_published_body(response: httpx2.Response) -> None:
    assert 400 <= response.status_code < 500
    body = response.json()
    assert set(body) == {"message", "detail", "error_code"}
    assert body["message"]
    assert "Traceback" not in response.text


def check_openai_body(response: httpx2.Response) -> None:
    assert 400 <= response.status_code < 500
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["code"]


async def check_it_goes_on(client: httpx2.AsyncClient) -> None:
    response = await client.post("/v1/audio/speech", json={"input": "Yes.", "response_format": "pcm", "seed": 1})
    assert response.status_code == 200
    assert len(response.content) > 4800


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize("stream", ["true", "false"])
async def test_bad_recordings(client: httpx2.AsyncClient, name: str, stream: str) -> None:
    response = await client.post(
        "/inference_zero_shot",
        data={"tts_text": "Hello.", "prompt_text": "Some words.", "stream": stream},
        files={"prompt_wav": ("prompt.wav", RECORDINGS[name](), "application/octet-stream")},
    )
    check_published_body(response)
    await check_it_goes_on(client)


@pytest.mark.parametrize("name", TEXTS)
async def test_bad_texts(client: httpx2.AsyncClient, name: str) -> None:
    check_published_body(await client.post("/inference_zero_shot", data={"tts_text": TEXTS[name], "spk_id": "en_male"}))
    check_openai_body(await client.post("/v1/audio/speech", json={"input": TEXTS[name]}))
    await check_it_goes_on(client)


async def test_unknown_voice(client: httpx2.AsyncClient) -> None:
    published = await client.post("/inference_zero_shot", data={"tts_text": "Hello.", "spk_id": "nobody"})
    check_published_body(published)
    assert "en_female" in published.text
    openai = await client.post("/v1/audio/speech", json={"input": "Hello.", "voice": "nobody"})
    check_openai_body(openai)
    assert openai.json()["error"]["code"] == "voice_not_found"


async def test_broken_utf8(client: httpx2.AsyncClient) -> None:
    check_openai_body(await client.post("/v1/audio/speech", content=b'{"input": "\xff\xfe\x80"}'))
    form = b"tts_text=%FF%FE%80&spk_id=en_male"
    headers = {"content-type": "application/x-www-form-urlencoded"}
    response = await client.post("/inference_zero_shot", content=form, headers=headers)
    if response.status_code != 200:  # a form decoder may replace the bytes; then there is nothing to say
        check_published_body(response)
    await check_it_goes_on(client)


@pytest.mark.parametrize(
    "body",
    [
        {"input": 5},
        {"input": ["Hello."]},
        {"input": "Hello.", "speed": "fast"},
        {"input": "Hello.", "speed": 99},
        {"input": "Hello.", "voice": {"name": "x"}},
        {"input": "Hello.", "response_format": "midi"},
        {"input": "Hello.", "seed": "x"},
        {"input": "Hello.", "ref_audio": "data:audio/wav;base64,!!!"},
        {},
    ],
)
async def test_wrong_types_on_the_openai_surface(client: httpx2.AsyncClient, body: dict[str, object]) -> None:
    check_openai_body(await client.post("/v1/audio/speech", json=body))


@pytest.mark.parametrize(
    "fields",
    [
        {"spk_id": "en_male"},
        {"tts_text": "Hello.", "spk_id": "en_male", "speed": "fast"},
        {"tts_text": "Hello.", "spk_id": "en_male", "stream": "perhaps"},
        {"tts_text": "Hello.", "spk_id": "en_male", "seed": "-3"},
        {"tts_text": "Hello.", "text": "Goodbye.", "spk_id": "en_male"},
        {"tts_text": "Hello.", "spk_id": "en_male", "flow_steps": "1000"},
        {"tts_text": "Hello.", "spk_id": "en_male", "tts_model_name": "none"},
    ],
)
async def test_wrong_fields_on_the_published_surface(client: httpx2.AsyncClient, fields: dict[str, str]) -> None:
    check_published_body(await client.post("/inference_zero_shot", data=fields))
