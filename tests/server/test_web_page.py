"""The page to try the server with: served without a key, whole, and of this server's own interfaces."""

import re

from light_tts.server.web_page import _POLICY
from light_tts.settings import ServerSettings, Settings

from .conftest import client_of


async def test_it_is_one_file_that_loads_nothing_from_elsewhere(client):
    answer = await client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"] == _POLICY
    assert not re.findall(r"""(?:src|href)=["']""", answer.text)
    assert "http://" not in answer.text
    assert "https://" not in answer.text


async def test_it_opens_without_a_key_but_speaks_with_one(engine):
    settings = Settings(server=ServerSettings(api_key=("k1",)))
    async with client_of(engine, settings) as client:
        assert (await client.get("/")).status_code == 200
        assert (await client.post("/v1/audio/speech", json={"input": "Hello."})).status_code == 401


async def test_it_asks_paths_and_elements_that_exist(client, app):
    text = (await client.get("/")).text
    asked = set(re.findall(r'fetch\("([^"]+)"', text))
    assert asked == {"v1/audio/voices", "v1/audio/speech"}
    for path in asked:
        assert (await client.options(f"/{path}")).status_code != 404
    ids = set(re.findall(r'id="([a-z]+)"', text))
    assert set(re.findall(r'\$\("([a-z]+)"\)', text)) <= ids
