"""The application for process managers, its engine behind a socket; test_shared_engine.py has the real gunicorn."""

import time

from light_tts.server.asgi import shared_app
from light_tts.settings import Settings
from tests.frontdoor.conftest import pair  # noqa: F401

from .conftest import asgi_client


async def test_the_engine_is_met_when_the_application_starts_up_and_left_when_it_shuts_down(monkeypatch, pair):  # noqa: F811
    class Meeting:
        def __init__(self, settings, cpus):
            self.connect = pair.connect

    monkeypatch.setattr("light_tts.server.asgi.SharedEngine", Meeting)
    monkeypatch.setattr("light_tts.server.asgi.configure_logging", lambda *_: None)
    app = shared_app(Settings(), notes=("--x has no effect: it is old",))
    state = app.state.server
    async with asgi_client(app) as client:
        assert (await client.get("/readiness")).status_code == 503
        async with app.router.lifespan_context(app):
            deadline_s = time.monotonic() + 10
            while (await client.get("/readiness")).status_code != 200:
                assert time.monotonic() < deadline_s
            answer = await client.post("/inference_zero_shot", data={"tts_text": "Room 12.", "spk_id": "en_male"})
            assert len(answer.content) == 2 * 24_000
            [request] = pair.engine.requests
            assert (request.text, request.voice) == ("Room 12.", "en_male")
            assert request.prepared_text is not None
            assert "lightllm_request_success_total 1.0" in (await client.get("/metrics")).text
        assert not state.engine.is_ready
        assert (await client.get("/readiness")).status_code == 503
    assert pair.deserted.wait(5)
