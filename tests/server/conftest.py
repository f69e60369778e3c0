import contextlib
import threading
import time
from dataclasses import replace

import httpx2
import pytest
import structlog
import uvicorn

from light_tts.server.app import create_app
from light_tts.server.listening import listen, server_config
from light_tts.settings import ServerSettings, Settings

from .fake_engine import FakeEngine


@pytest.fixture(autouse=True, scope="session")
def logging_goes_through_the_standard_library():
    structlog.configure(
        processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    yield
    structlog.reset_defaults()


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def settings():
    return Settings()


@pytest.fixture
def app(engine, settings):
    return create_app(engine, settings)


def asgi_client(app, *, raise_app_exceptions=True):
    """In-process; an exception that reaches the server is a test failure unless told otherwise."""
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=raise_app_exceptions)
    return httpx2.AsyncClient(transport=transport, base_url="http://test")


@pytest.fixture
async def client(app):
    async with asgi_client(app) as client:
        yield client


def client_of(engine_or_app, settings=None):
    """An in-process client of an app, or of one made for an engine; errors after the first byte end the answer."""
    app = engine_or_app if settings is None else create_app(engine_or_app, settings)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://test")


@contextlib.contextmanager
def serving(app, settings):
    """A real server on a free port; yields its base URL."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(server_config(app, settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline_s = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline_s:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


@pytest.fixture
def base_url(app, settings):
    with serving(app, settings) as url:
        yield url


def wait_for(condition, timeout_s=5.0):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.005)


def with_server(settings, **changes):
    return replace(settings, server=replace(ServerSettings(), **changes))
