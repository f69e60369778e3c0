"""The application for process managers: loads its engine when it is started up, closes it when it is shut down."""

import sys
import types
from typing import ClassVar

from light_tts.server.asgi import shared_app
from light_tts.settings import Settings

from .fake_engine import FakeEngine


class LoadedEngine(FakeEngine):
    calls: ClassVar = []

    @classmethod
    def load(cls, settings, events):
        cls.calls.append(("load", settings, events))
        return cls()

    def warm_up(self):
        self.calls.append("warm_up")

    def preload_phrases(self):
        self.calls.append("preload_phrases")

    def close(self):
        self.calls.append("close")


async def test_the_engine_lives_as_long_as_the_application(monkeypatch):
    module = types.ModuleType("light_tts.engine")
    module.TTSEngine = LoadedEngine
    monkeypatch.setitem(sys.modules, "light_tts.engine", module)
    monkeypatch.setattr("light_tts.server.asgi.configure_logging", lambda *_: None)
    settings = Settings()
    app = shared_app(settings, notes=("--x has no effect: it is old",))
    state = app.state.server
    assert state.engine is None
    async with app.router.lifespan_context(app):
        assert isinstance(state.engine, LoadedEngine)
        assert LoadedEngine.calls == [("load", settings, state.observer.engine), "warm_up", "preload_phrases"]
    assert state.engine is None
    assert LoadedEngine.calls[-1] == "close"
