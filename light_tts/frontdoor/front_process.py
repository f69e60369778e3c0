"""A front end's process: the same application as ever, around an engine that is elsewhere. Loads no torch."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI

from light_tts.assets import builtin_model_dir
from light_tts.cpu_affinity import bind
from light_tts.errors import LightTTSError
from light_tts.frontdoor.remote_engine import Connect, RemoteEngine, RemoteObserver
from light_tts.frontdoor.start_sheet import from_values, read_sheet, when_starter_has_gone
from light_tts.frontend.text import TextFrontend
from light_tts.logs import configure_logging
from light_tts.models.model_dir import ModelDirectory
from light_tts.server.app import create_app
from light_tts.server.listening import server_of
from light_tts.settings import Settings

logger = logging.getLogger(__name__)

EXIT_WITHOUT_ENGINE = 4


def main() -> int:
    """`python -m light_tts.frontdoor.front_process`, with a StartSheet on standard input."""
    sheet = read_sheet()
    if sheet.cpus is not None:
        bind(frozenset(sheet.cpus))
    settings = from_values(sheet.settings)
    configure_logging(settings.server.log_level, settings.server.log_format, settings.server.log_dir)
    listener = socket.socket(fileno=sheet.listener_fd)

    def lose_engine(reason: LightTTSError | None) -> None:
        if reason is None:  # else whoever started all this ends it
            server.hurry()

    app = RemoteApp(settings, lambda: connect_to(sheet.engine_path), lose_engine)
    server = server_of(app.app, settings)

    def stop() -> None:
        server.should_exit = True

    when_starter_has_gone(stop)
    app.start()
    server.run(sockets=[listener])
    app.close()
    return EXIT_WITHOUT_ENGINE if app.has_lost_engine else 0


class RemoteApp:
    """The application of a front end, and its engine.

    on_gone:  there will be no engine any more; with the reason, if there is one.
    """

    def __init__(self, settings: Settings, connect: Connect, on_gone: Callable[[LightTTSError | None], None]) -> None:
        self.has_lost_engine = False
        self._on_gone = on_gone
        text = TextFrontend.from_model_directory(
            ModelDirectory.open(Path(settings.model.model_dir or builtin_model_dir())), settings.frontend
        )
        self._engine = RemoteEngine(settings, connect, text, on_ready=self._take_engine, on_gone=self._lose_engine)
        self.app: FastAPI = create_app(None, settings, observer=RemoteObserver(self._engine))

    def start(self) -> None:
        """Connect to the engine; the application answers NOT_READY until it is there."""
        self._engine.start()

    def close(self) -> None:
        """Disconnect, after everything has been said."""
        self._engine.close()

    def _take_engine(self) -> None:
        self.app.state.server.engine = self._engine

    def _lose_engine(self, reason: LightTTSError | None) -> None:
        self.has_lost_engine = True
        logger.error("front end %d has no engine any more: %s", os.getpid(), reason or "its process has ended")
        self._on_gone(reason)


def connect_to(path: str) -> socket.socket:
    """A connection to the engine's process. Raises OSError when nobody listens there."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


if __name__ == "__main__":
    sys.exit(main())
