"""The application of a process that has no engine of its own. Loads no torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI

from light_tts.assets import builtin_model_dir
from light_tts.errors import LightTTSError
from light_tts.frontdoor.remote_engine import Connect, RemoteEngine
from light_tts.frontdoor.remote_observer import RemoteObserver
from light_tts.frontend.text import TextFrontend
from light_tts.models.model_dir import ModelDirectory
from light_tts.server.app import create_app
from light_tts.settings import Settings

logger = logging.getLogger(__name__)


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
