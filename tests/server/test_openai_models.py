"""`/v1/models` and the names of models in requests, in-process."""

import pytest

from light_tts.server.app import create_app

from .conftest import asgi_client, with_server

SPEECH = "/v1/audio/speech"


async def test_models(client):
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["test-model", "tts-1"]
    for model in listed["data"]:
        assert (model["object"], model["owned_by"]) == ("model", "light-tts")
        assert (await client.get(f"/v1/models/{model['id']}")).json() == model
    both = (await client.get("/v1/audio/models")).json()
    assert both["models"] == both["data"] == listed["data"]
    assert (await client.get("/v1/")).status_code == (await client.get("/v1")).status_code == 200


async def test_ids_may_hold_slashes(client, engine):
    engine.model_name = "org/model"
    assert (await client.get("/v1/models/org/model")).json()["id"] == "org/model"
    missing = await client.get("/v1/models/a/b")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("name", "style"),
    [
        (None, "default"),
        ("", "default"),
        ("default", "default"),
        ("test-model", "default"),
        ("tts-1", "default"),
        ("tts-1-hd", "default"),
        ("gpt-4o-mini-tts", "default"),
        ("gpt-4o-mini-tts-2025-12-15", "default"),
        ("calm", "calm"),
    ],
)
async def test_names_of_models(client, engine, name, style):
    engine.model_names = ["cosyvoice", "calm"]
    assert (await client.post(SPEECH, json={"input": "a", "model": name})).status_code == 200
    assert engine.requests[0].model == style


async def test_any_model_is_accepted_only_where_that_is_set(engine, settings, client):
    for path in ("/v1/models/kokoro", SPEECH):
        answer = await client.request("POST" if path == SPEECH else "GET", path, json={"input": "a", "model": "kokoro"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "model")
    async with asgi_client(create_app(engine, with_server(settings, accept_any_model=True))) as lenient:
        assert (await lenient.post(SPEECH, json={"input": "a", "model": "kokoro"})).status_code == 200
        assert (await lenient.get("/v1/models/kokoro")).json()["id"] == "kokoro"
    assert [request.model for request in engine.requests] == ["default"]
