"""What one API key may ask for, and what other keys notice of it."""

import asyncio

import pytest

from light_tts.caller_limits import CallerLimits
from light_tts.errors import ConfigError
from light_tts.server.app import create_app
from light_tts.settings_loader import load_settings

from .conftest import asgi_client, wait_for, with_server

SPEECH = "/v1/audio/speech"


def bearer(key):
    return {"authorization": f"Bearer {key}"}


async def test_a_key_has_so_many_requests_at_once(engine, settings):
    engine.stall_after, engine.callers = 0, CallerLimits(2, 0)
    app = create_app(engine, with_server(settings, api_key=("a", "b")))

    def ask(key):
        return asyncio.create_task(client.post(SPEECH, json={"input": "x"}, headers=bearer(key)))

    async with asgi_client(app) as client:
        running = [ask("a"), ask("a")]
        await asyncio.to_thread(wait_for, lambda: len(engine.running) == 2)
        refused = await ask("a")
        error = refused.json()["error"]
        assert (refused.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await client.get("/v1/models", headers=bearer("a"))).status_code == 200
        other = ask("b")
        await asyncio.to_thread(wait_for, lambda: len(engine.running) == 3)
        for stream in engine.streams:
            stream.cancel()
        assert [answer.status_code for answer in await asyncio.gather(*running, other)] == [503, 503, 503]
        engine.stall_after = None
        assert (await ask("a")).status_code == 200
        metrics = (await client.get("/metrics")).text
        assert 'tts_requests_rejected_total{reason="rate_limited"} 1.0' in metrics


async def test_a_key_begins_so_many_requests_per_minute(engine, settings):
    engine.callers = CallerLimits(0, 3)
    app = create_app(engine, with_server(settings, api_key=("a",), admin_key=("root",)))
    async with asgi_client(app) as client:
        codes = [
            (await client.post("/inference_zero_shot", data={"tts_text": "x"}, headers=bearer("a"))).status_code
            for _ in range(4)
        ]
        assert codes == [200, 200, 200, 429]
        refused = await client.post("/inference_zero_shot", data={"tts_text": "x"}, headers=bearer("a"))
        assert refused.json()["error_code"] == "RATE_LIMITED"
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        assert (await client.post(SPEECH, json={"input": "x"}, headers=bearer("root"))).status_code == 200
    assert len(engine.requests) == 4


@pytest.mark.parametrize("limit", ["key_max_concurrent", "key_requests_per_minute"])
def test_a_limit_of_keys_without_keys_is_a_mistake(limit):
    with pytest.raises(ConfigError, match="set api_key"):
        load_settings({limit: "3"}, environment={})
    assert load_settings({limit: "3", "api_key": "k"}, environment={})
