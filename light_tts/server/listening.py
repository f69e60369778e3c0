"""uvicorn as it is run here: its socket, its options, what it logs, how it ends."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
import sys
import threading
from types import FrameType

import uvicorn
from fastapi import FastAPI

from light_tts.errors import ConfigError
from light_tts.server.draining_server import DrainingServer
from light_tts.server.errors import BrokenAnswer
from light_tts.settings import Settings

logger = logging.getLogger(__name__)

BACKLOG = 2048


def server_of(app: FastAPI, settings: Settings) -> DrainingServer:
    """The server of an application; logs its loop. For the main thread, which gets its signals."""
    logging.getLogger("uvicorn.error").addFilter(is_news)
    config = server_config(app, settings)
    logger.info("loop: %s", getattr(config.get_loop_factory(), "__module__", "asyncio"))
    _ignore_repeated_signals()
    return DrainingServer(config, app.state.server, drain_timeout_s=settings.server.drain_timeout_s)


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """uvloop and httptools where installed; no access log, each request has its own line."""
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
    [listener] = listen_for(host, port, 1)
    return listener


def listen_for(host: str, port: int, num_processes: int) -> list[socket.socket]:
    """A listening socket for each process; where the system spreads connections over several of one address.

    Elsewhere all processes share one. Raises ConfigError as `listen` does.
    """
    listener = _listener(host, port, shares_port=False)
    if num_processes == 1 or sys.platform != "linux":
        return [listener] * num_processes
    # The first one found the address free of others, which the sharing ones would have joined in silence.
    port = listener.getsockname()[1]
    listener.close()
    return [_listener(host, port, shares_port=True) for _ in range(num_processes)]


def _listener(host: str, port: int, *, shares_port: bool) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # One address, so of a name with several the one that all clients can reach.
        family, kind, protocol, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"server.host {host!r} cannot be resolved: {error.strerror}.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Stop what uses the port, or choose another --port."
        ) from None
    return listener


def _ignore_repeated_signals() -> None:
    """uvicorn raises the signal that stopped it once more after its shutdown; a drained server exits with 0 instead."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _do_nothing)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


def is_news(entry: logging.LogRecord) -> bool:
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
