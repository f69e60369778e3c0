"""uvicorn, but for its end: sessions over WebSockets and other protocols finish as requests do, in the same time."""

from __future__ import annotations

import asyncio
import socket
import time
from types import FrameType

import uvicorn

from light_tts.server.state import ServerState


class DrainingServer(uvicorn.Server):
    """Stops in this order: accepts no connection, closes idle ones, waits for sessions and then for requests.

    state:            knows the sessions that are open, and the servers beside this one.
    drain_timeout_s:  for all of them together. A second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, state: ServerState, *, drain_timeout_s: float) -> None:
        super().__init__(config)
        self._state = state
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
        await self._drain()
        self.config.timeout_graceful_shutdown = max(1, round(ends_s - time.monotonic()))
        await super().shutdown(sockets)

    async def _drain(self) -> None:
        """Wait for sessions and for the servers beside this one, until they are done or the time is over."""
        assert self._hurried is not None
        grace_s = 0.0 if self._hurried.is_set() else self._drain_timeout_s
        stops = {asyncio.ensure_future(stop(grace_s)) for stop in self._state.stops}
        open_ones = {*self._state.sessions, *stops}
        if not open_ones:
            return
        finished = asyncio.ensure_future(asyncio.wait(open_ones))
        hurried = asyncio.ensure_future(self._hurried.wait())
        await asyncio.wait({finished, hurried}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        finished.cancel()
        hurried.cancel()
        await asyncio.gather(*[stop(0.0) for stop in self._state.stops])
