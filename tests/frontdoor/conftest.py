"""Both sides of the front door in one process, around the engine that speaks a sine."""

import socket
import threading
from types import SimpleNamespace

import pytest

from light_tts.errors import EmptyText, TextTooLong
from light_tts.frontdoor.engine_house import EngineHouse
from light_tts.frontdoor.remote_engine import RemoteEngine
from light_tts.server.app import new_metrics
from light_tts.settings import EngineSettings, Settings
from light_tts.types import PreparedText
from tests.server.fake_engine import FakeEngine


class Letters:
    """Stands in for a TextFrontend: a letter's id is its code point."""

    def check(self, text, field):
        if len(text) > 1000:
            raise TextTooLong(f"{field} is too long.", field)

    def prepare(self, request):
        if not request.text.strip():
            raise EmptyText("There is nothing to speak in the text.", "text")
        return PreparedText((), (tuple(map(ord, request.text)),))

    def open_text(self, request):
        return self

    def feed(self, text):
        return tuple(map(ord, text))

    def end(self):
        return ()

    def discard(self):
        pass


class Pair(SimpleNamespace):
    """engine: the fake one. house: its process's side. remote: a front end's."""

    def connect(self):
        if self.house is None:
            raise ConnectionRefusedError
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.address)
        return connection

    def open_front_end(self, *, is_welcome=True):
        ready = threading.Event()
        remote = RemoteEngine(self.settings, self.connect, Letters(), on_ready=ready.set, on_gone=self.reasons.append)
        remote.start()
        self.opened.append(remote)
        assert not is_welcome or ready.wait(10)
        return remote

    def open_house(self):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.address)
        listener.listen()
        self.house = EngineHouse(listener, new_metrics())
        self.house.on_deserted = self.deserted.set
        self.house.start()

    def close(self):
        for remote in self.opened:
            remote.close()
        if self.house is not None:
            self.house.close()


@pytest.fixture
def pair(tmp_path):
    pair = Pair(
        engine=FakeEngine(),
        settings=Settings(engine=EngineSettings(max_pending_chunks=4)),
        address=str(tmp_path / "engine"),
        deserted=threading.Event(),
        opened=[],
        reasons=[],
        house=None,
    )
    pair.open_house()
    pair.house.welcome(pair.engine)
    yield pair
    pair.close()
