"""The server as an ASGI application, for a process manager that brings its own HTTP server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI

from light_tts.logs import configure_logging
from light_tts.server.app import create_app
from light_tts.settings import Settings

logger = logging.getLogger(__name__)


def shared_app(settings: Settings, *, notes: Sequence[str] = ()) -> FastAPI:
    """The application; its engine is loaded when the server starts it up, and closed when it shuts down.

    notes:  sentences for the log of the start.
    """
    configure_logging(settings.server.log_level, settings.server.log_format, settings.server.log_dir)
    for note in notes:
        logger.info("%s", note)
    app = create_app(None, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        from light_tts.engine import TTSEngine

        engine = await asyncio.to_thread(TTSEngine.load, settings, app.state.server.observer.engine)
        try:
            await asyncio.to_thread(engine.warm_up)
            engine.preload_phrases()
            app.state.server.engine = engine
            yield
        finally:
            app.state.server.engine = None
            await asyncio.to_thread(engine.close)

    app.router.lifespan_context = lifespan
    return app
