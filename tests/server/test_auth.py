"""Who may do what: keys, admin keys, open lists."""

import pytest

from light_tts.server.app import create_app

from .conftest import asgi_client, with_server
from .fake_engine import recording

SPEECH = "/v1/audio/speech"
VOICES = "/v1/audio/voices"
UPLOAD = {"data": {"name": "mine"}, "files": {"audio_sample": ("a.wav", recording())}}


def client_of(engine, settings, **changes):
    return asgi_client(create_app(engine, with_server(settings, **changes)))


async def speak(client, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return (await client.post(SPEECH, json={"input": "a"}, headers=headers)).status_code


async def test_either_header_will_do_also_beside_a_useless_other(engine, settings):
    async with client_of(engine, settings, api_key=("k1", "k2")) as client:
        assert await speak(client, authorization="Bearer k2") == 200
        assert await speak(client, xi_api_key="k2") == 200
        assert await speak(client, authorization="Bearer ", xi_api_key="k1") == 200
        assert await speak(client, authorization="Basic abc", xi_api_key="k1") == 200
        assert await speak(client, authorization="Bearer k1", xi_api_key="old") == 200
        assert await speak(client, authorization="k1") == 401
        assert await speak(client, authorization="Bearer k", xi_api_key="") == 401


@pytest.mark.parametrize("keys", [(), ("user",)])
async def test_where_there_is_an_admin_key_others_change_no_voices(engine, settings, keys):
    async with client_of(engine, settings, api_key=keys, admin_key=("root",)) as client:
        nobody = await client.post(VOICES, **UPLOAD)
        assert (nobody.status_code, nobody.json()["error"]["code"]) == (401, "invalid_api_key")
        user = await client.post(VOICES, **UPLOAD, headers={"authorization": "Bearer user"})
        assert user.status_code == (403 if keys else 401)
        if keys:
            error = user.json()["error"]
            assert (error["type"], error["code"]) == ("permission_error", "forbidden")
            assert 'tts_requests_rejected_total{reason="forbidden"} 1.0' in (await client.get("/metrics")).text
        assert engine.voices.consents == {}
        root = {"authorization": "Bearer root"}
        assert (await client.post(VOICES, **UPLOAD, headers=root)).status_code == 200
        assert (await client.delete(f"{VOICES}/mine", headers={"authorization": "Bearer user"})).status_code != 200
        assert (await client.delete(f"{VOICES}/mine", headers=root)).status_code == 200
        assert (await client.get(VOICES)).status_code == 200
        assert await speak(client) == (401 if keys else 200)
        assert await speak(client, authorization="Bearer root") == 200
