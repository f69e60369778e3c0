"""uvicorn, but for its end: sessions over WebSockets are let finish as requests are, within the same time."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Collection
from types import FrameType
from typing import Any

import uvicorn


class DrainingServer(uvicorn.Server):
    """Stops in this order: accepts no connection, closes idle ones, waits for sessions and then for requests.

    sessions:         tasks of the sessions that are open; read when the server is told to stop.
    drain_timeout_s:  for all of them together. A second signal ends it at once.
    """

    def __init__(
        self, config: uvicorn.Config, sessions: Collection[asyncio.Task[Any]], *, drain_timeout_s: float
    ) -> None:
        super().__init__(config)
        self._sessions = sessions
        self._drain_timeout_s = drain_timeout_s
        self._hurried: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        self._loop, self._hurried = asyncio.get_running_loop(), asyncio.Event()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        if self.should_exit:
            self.hurry()
        super().handle_exit(sig, frame)

    def hurry(self) -> None:
        """End at once, whatever still runs. Any thread, also before anything has begun."""
        self.should_exit = self.force_exit = True
        if self._loop is not None and self._hurried is not None:
            self._loop.call_soon_threadsafe(self._hurried.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See the class."""
        ends_s = time.monotonic() + self._drain_timeout_s
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            if not isinstance(connection, self.config.ws_protocol_class or ()):
                connection.shutdown()
        assert self._hurried is not None
        sessions = set(self._sessions)
        if sessions and not self._hurried.is_set():
            finished = asyncio.ensure_future(asyncio.wait(sessions))
            hurried = asyncio.ensure_future(self._hurried.wait())
            waited = {finished, hurried}
            await asyncio.wait(waited, timeout=self._drain_timeout_s, return_when=asyncio.FIRST_COMPLETED)
            for task in waited:
                task.cancel()
        self.config.timeout_graceful_shutdown = max(1, round(ends_s - time.monotonic()))
        await super().shutdown(sockets)
