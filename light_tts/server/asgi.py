"""The server as an ASGI application, for a process manager that brings its own HTTP server and its own workers."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI

from light_tts.cpu_affinity import bind, chosen_cpus, divide
from light_tts.errors import LightTTSError
from light_tts.frontdoor.remote_app import RemoteApp
from light_tts.frontdoor.shared_engine import SharedEngine
from light_tts.logs import configure_logging
from light_tts.server.listening import is_news
from light_tts.settings import Settings

logger = logging.getLogger(__name__)

# Of a worker that cannot work; gunicorn gives up instead of replacing it again and again.
WORKER_BOOT_ERROR = 3


def shared_app(settings: Settings, *, notes: Sequence[str] = ()) -> FastAPI:
    """The application of one worker. However many workers a master has, their engine is one, in a process of its own.

    notes:  sentences for the log of the start.

    The engine is looked for, or started, when the application is started up. Until it has been loaded the answer is
    NOT_READY; where it cannot be loaded the worker ends. Raises ConfigError and CheckpointError for wrong settings.
    """
    configure_logging(settings.server.log_level, settings.server.log_format, settings.server.log_dir)
    for note in notes:
        logger.info("%s", note)
    logging.getLogger("uvicorn.error").addFilter(is_news)
    cpus = chosen_cpus(settings.server)
    engine_cpus, own_cpus = (None, None) if cpus is None else divide(cpus, settings.server.http_workers)
    worker = RemoteApp(settings, SharedEngine(settings, engine_cpus).connect, _end_worker)
    beside = worker.app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if own_cpus is not None:
            bind(own_cpus)
        worker.start()
        try:
            async with beside(app):
                yield
        finally:
            await asyncio.to_thread(worker.close)

    worker.app.router.lifespan_context = lifespan
    return worker.app


def _end_worker(reason: LightTTSError | None) -> None:
    logger.error("this worker ends with status %d", WORKER_BOOT_ERROR)
    os._exit(WORKER_BOOT_ERROR)
