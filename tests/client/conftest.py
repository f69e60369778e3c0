import pytest

from light_tts.server.app import create_app
from light_tts.settings import ServerSettings, Settings
from tests.server.conftest import logging_goes_through_the_standard_library, serving  # noqa: F401 (a fixture)
from tests.server.fake_engine import FakeEngine


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def settings():
    return Settings(server=ServerSettings(keep_alive_s=60))


@pytest.fixture
def base_url(engine, settings):
    """A real server on a free port, with an engine that speaks a sine of 1 s."""
    with serving(create_app(engine, settings), settings) as url:
        yield url
