"""The process around the application: listen, load, serve, drain. `light-tts serve` calls `run`."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from types import FrameType

import uvicorn
from fastapi import FastAPI

from light_tts.errors import ConfigError, LightTTSError
from light_tts.logs import configure_logging
from light_tts.server.app import create_app
from light_tts.server.draining_server import DrainingServer
from light_tts.server.errors import BrokenAnswer
from light_tts.server.grpc_api import check_grpc
from light_tts.server.health_monitor import HealthMonitor
from light_tts.server.stats_log import StatsLog
from light_tts.settings import Settings

logger = logging.getLogger(__name__)

BACKLOG = 2048
ILLNESS_STATUS = 1
ILLNESS_GRACE_S = 10.0


def run(settings: Settings, *, notes: Sequence[str] = ()) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status. notes: sentences for the log of the start.

    The port is taken before the model loads; while it loads every request but health answers NOT_READY. After SIGTERM
    no connection is accepted and running requests have `drain_timeout_s` to end; a second signal ends at once.
    Raises ConfigError for an address that cannot be listened on, and what TTSEngine.load raises.
    """
    configure_logging(settings.server.log_level, settings.server.log_format, settings.server.log_dir)
    for note in notes:
        logger.info("%s", note)
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    listener = listen(settings.server.host, settings.server.port)
    if settings.server.grpc_port:
        check_grpc()
        listen(settings.server.host, settings.server.grpc_port).close()
    app = create_app(None, settings)
    config = server_config(app, settings)
    server = DrainingServer(config, app.state.server, drain_timeout_s=settings.server.drain_timeout_s)
    loading = _Loading(app, server, settings)
    illness = _Illness(server)
    monitor = HealthMonitor(
        settings.server.host,
        settings.server.port,
        interval_s=settings.server.health_check_interval_s,
        on_illness=illness.end,
    )
    _ignore_repeated_signals()
    loading.start()
    if settings.server.health_monitor:
        monitor.start()
    logger.info("loop: %s", getattr(config.get_loop_factory(), "__module__", "asyncio"))
    try:
        server.run(sockets=[listener])
    finally:
        monitor.close()
        listener.close()
        loading.close()
    return illness.exit_status


def main() -> int:
    """The entry point of `python -m light_tts.server.api_server`."""
    from light_tts.compat.launch import launch
    from light_tts.compat.programs import API_SERVER

    return launch(API_SERVER)


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """uvicorn as it is run here: uvloop and httptools where installed; no access log, each request has its own line."""
    return uvicorn.Config(
        app,
        loop="auto",
        http="auto",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.server.keep_alive_s,
        timeout_graceful_shutdown=math.ceil(settings.server.drain_timeout_s),
        ws_max_size=settings.server.ws_max_bytes,
        ws_ping_interval=settings.server.ws_ping_interval_s,
        ws_ping_timeout=settings.server.ws_ping_timeout_s,
        backlog=BACKLOG,
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError with the reason when the address is taken or not of this machine."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # One socket, so of a name with both the address that all clients can reach.
        family, kind, protocol, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"server.host {host!r} cannot be resolved: {error.strerror}.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Stop what uses the port, or choose another --port."
        ) from None
    return listener


class _Illness:
    """Ends a server whose health checks fail, so that whoever watches the process starts it again."""

    def __init__(self, server: DrainingServer) -> None:
        self.exit_status = 0
        self._server = server

    def end(self) -> None:
        """On the monitor's thread."""
        if self._server.should_exit:
            return
        logger.error("the server stays ill and ends with status %d", ILLNESS_STATUS)
        self.exit_status = ILLNESS_STATUS
        self._server.hurry()
        # A process whose threads hang cannot end in order.
        backstop = threading.Timer(ILLNESS_GRACE_S, os._exit, [ILLNESS_STATUS])
        backstop.daemon = True
        backstop.start()


class _Loading:
    """Loads the engine on a thread while the server already answers; ends the server when that fails."""

    def __init__(self, app: FastAPI, server: uvicorn.Server, settings: Settings) -> None:
        self._app = app
        self._server = server
        self._settings = settings
        self._error: Exception | None = None
        self._statistics: StatsLog | None = None
        self._thread = threading.Thread(target=self._load, name="load", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Close the engine. Raises what loading raised."""
        if self._error is not None:
            raise self._error
        if self._statistics is not None:
            self._statistics.close()
        engine = self._app.state.server.engine
        if engine is not None:
            self._app.state.server.engine = None
            engine.close()

    def _load(self) -> None:
        events = self._app.state.server.observer.engine
        try:
            from light_tts.engine import TTSEngine

            engine = TTSEngine.load(self._settings, events=events)
            engine.warm_up()
        except Exception as error:
            if not isinstance(error, LightTTSError):
                logger.exception("the engine could not be loaded")
            self._error = error
            self._server.should_exit = True
            return
        engine.preload_phrases()
        if not self._settings.server.disable_log_stats:
            self._statistics = StatsLog(engine, events, self._settings.server.log_stats_interval_s)
            self._statistics.start()
        health = engine.health()
        logger.info(
            "ready on http://%s:%s: model %s on %s, %s",
            self._settings.server.host,
            self._settings.server.port,
            health["model"],
            health["device"],
            health["dtypes"],
        )
        self._app.state.server.engine = engine


def _ignore_repeated_signals() -> None:
    """uvicorn raises the signal that stopped it once more after its shutdown; a drained server exits with 0 instead."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _do_nothing)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


def _is_news(entry: logging.LogRecord) -> bool:
    """False for what the request's own line says already: the traceback of an answer cut on purpose or by a second
    signal, and sockets that come and go.
    """
    error = entry.exc_info[1] if entry.exc_info else None
    is_socket_line = entry.levelno == logging.INFO and (
        '"WebSocket ' in entry.msg or entry.msg.startswith("connection ")
    )
    is_cut = (
        isinstance(error, BrokenAnswer | asyncio.CancelledError) or "asyncio.exceptions.CancelledError" in entry.msg
    )
    return not is_cut and not is_socket_line


if __name__ == "__main__":
    sys.exit(main())
