"""Against a real server whose answers are known."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp")
from aiohttp import web
from aiohttp.test_utils import TestServer

from light_tts.bench.dialects import DIALECTS
from light_tts.bench.http_target import HttpTarget
from light_tts.bench.load import LoadPlan, LoadResult, run_load
from light_tts.bench.target import RequestFailed, SpeechOptions, SpeechRequest

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def seconds(duration_s: float, level: int = 8000) -> bytes:
    return np.full(int(24_000 * duration_s), level, "<i2").tobytes()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    for dialect in DIALECTS.values():
        app.router.add_post(dialect.path, handler)
    async with TestServer(app) as server:
        yield str(server.make_url(""))


async def measure(handler: Handler, num_requests: int = 1, dialect: str = "lighttts", **options: Any) -> LoadResult:
    async with (
        serving(handler) as url,
        HttpTarget(url, DIALECTS[dialect], SpeechOptions(**options), api_key="secret") as target,
    ):
        plan = LoadPlan(num_requests=num_requests, timeout_s=30.0)
        return await run_load(target, ("hello",), plan, stream=True)


async def test_a_slow_stream_runs_its_player_dry_once() -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(seconds(0.02))
        await asyncio.sleep(0.4)
        await response.write(seconds(60.0))
        await asyncio.sleep(0.1)  # a minute is in the player's hands: this is not heard
        await response.write(seconds(0.5))
        return response

    row = (await measure(slow)).rows[0]
    assert row.error is None
    assert row.underruns == 1
    assert row.late_s is not None
    assert row.late_s > 0.0
    assert row.audio_s == pytest.approx(60.52)
    assert row.first_audio_s is not None
    assert row.first_audio_s < row.total_s
    assert [when for when, _ in row.arrivals] == sorted(when for when, _ in row.arrivals)


async def test_neither_headers_nor_a_wav_header_are_first_audio() -> None:
    headers_sent, go_on = asyncio.Event(), asyncio.Event()

    async def hesitant(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "audio/wav"})
        await response.prepare(request)
        header = (
            b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data\xff\xff\xff\xff"
        )
        await response.write(header)
        headers_sent.set()
        await go_on.wait()
        await response.write(b"\0\1" * 1600)
        return response

    async with serving(hesitant) as url, HttpTarget(url, DIALECTS["openai"], SpeechOptions()) as target:
        pieces = target.speak(SpeechRequest("hello", 0))
        first = asyncio.ensure_future(anext(pieces))
        await headers_sent.wait()
        await asyncio.sleep(0.05)
        assert not first.done()
        go_on.set()
        samples, sample_rate_hz = await first
        assert (samples.size, sample_rate_hz) == (1600, 16_000)
        await pieces.aclose()


async def test_the_form_arrives_as_servers_expect_it() -> None:
    seen: dict[str, Any] = {}

    async def record(request: web.Request) -> web.StreamResponse:
        form = await request.post()
        recording = form["prompt_wav"]
        assert isinstance(recording, web.FileField)
        seen.update(form, prompt_wav=recording.file.read(), key=request.headers["Authorization"])
        return web.Response(body=seconds(0.1))

    row = (await measure(record, prompt_audio=b"RIFF1234", prompt_text="你好")).rows[0]
    assert row.error is None
    assert seen["tts_text"] == "hello"
    assert seen["prompt_wav"] == b"RIFF1234"
    assert seen["prompt_text"] == "你好"
    assert seen["key"] == "Bearer secret"


async def test_json_arrives_as_servers_expect_it() -> None:
    bodies = []

    async def record(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        return web.Response(body=seconds(0.1), headers={"X-Sample-Rate": "48000", "Content-Type": "audio/pcm"})

    rows = (await measure(record, 2, "openai", voice="anna")).rows
    assert [body["seed"] for body in bodies] == [0, 1]
    assert bodies[0]["voice"] == "anna"
    assert rows[0].audio_s == pytest.approx(0.05), "the server's own word on its sample rate counts"


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (503, {"message": "busy", "detail": None, "error_code": "OVERLOADED"}, "http 503 OVERLOADED", "busy"),
        (400, {"error": {"message": "who?", "code": "voice_not_found"}}, "http 400 voice_not_found", "who?"),
        (422, {"detail": [{"msg": "field required"}]}, "http 422", "[{'msg': 'field required'}]"),
        (500, ["odd"], "http 500", '["odd"]'),
    ],
)
async def test_refusals_are_counted_by_status_and_code(status: int, body: Any, kind: str, message: str) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status)

    row = (await measure(refuse)).rows[0]
    assert (row.error, row.message) == (kind, message)
    assert row.first_audio_s is None


async def test_a_stream_that_is_cut_is_a_failure_with_what_had_come() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(seconds(0.5))
        await asyncio.sleep(0.05)
        assert request.transport is not None
        request.transport.abort()
        return response

    row = (await measure(cut)).rows[0]
    assert row.error == "connection cut"
    assert row.audio_s == pytest.approx(0.5)
    assert row.underruns is None


async def test_an_answer_that_is_no_pcm_is_a_failure() -> None:
    async def compressed(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"\xff\xfb" * 100, content_type="audio/mpeg")

    row = (await measure(compressed)).rows[0]
    assert row.error == "bad audio"
    assert "audio/mpeg" in row.message


async def test_nobody_listening_is_a_failure_of_its_own() -> None:
    async with serving(lambda request: asyncio.sleep(0, web.Response())) as url:
        pass
    async with HttpTarget(url, DIALECTS["lighttts"], SpeechOptions()) as target:
        with pytest.raises(RequestFailed) as failure:
            await anext(target.speak(SpeechRequest("hello", 0)))
    assert failure.value.kind == "no connection"


async def test_open_loop_does_not_slow_down_with_the_server() -> None:
    """The server answers nobody until all are there, over real connections."""
    everybody_here, waiting = asyncio.Event(), []

    async def together(request: web.Request) -> web.StreamResponse:
        waiting.append(request)
        if len(waiting) == 150:
            everybody_here.set()
        await everybody_here.wait()
        return web.Response(body=seconds(0.1))

    async with serving(together) as url, HttpTarget(url, DIALECTS["lighttts"], SpeechOptions()) as target:
        plan = LoadPlan(mode="open", rate_hz=2000.0, num_requests=150, timeout_s=60.0)
        rows = (await run_load(target, ("hello",), plan, stream=False)).rows
    assert {row.error for row in rows} == {None}
    assert len(waiting) == 150
