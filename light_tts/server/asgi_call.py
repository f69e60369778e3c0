"""A request to our own application from inside: other protocols reach every limit, key, metric and log line with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message


class AsgiCall:
    """One POST with a JSON body. `async with` it, read `status` and `headers`, then iterate the body as it is sent.

    The body is taken piece by piece: the application waits for its reader. Leaving the block is a client that leaves.
    """

    def __init__(
        self, app: ASGIApp, path: str, body: Mapping[str, Any], headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        self.status = 0
        self.headers = Headers()
        self._app = app
        self._body = json.dumps(body).encode()
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "2",
            "scheme": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [
                (b"content-type", b"application/json"),
                *((name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers),
            ],
            "client": None,
            "server": None,
        }
        self._pieces: asyncio.Queue[Message] = asyncio.Queue(1)
        self._has_left = asyncio.Event()
        self._is_asked = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> AsgiCall:
        """Ask. Returns when the answer begins; raises what the application raises instead."""
        self._task = asyncio.create_task(self._run())
        try:
            start = await self._next()
            self.status, self.headers = start["status"], Headers(raw=start["headers"])
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._has_left.set()
        while not self._task.done():
            # What it still sends goes nowhere.
            waiting = asyncio.ensure_future(self._pieces.get())
            await asyncio.wait({self._task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The pieces of the body. Raises what the application raises before its end."""
        is_over = False
        while not is_over:
            message = await self._next()
            is_over = not message.get("more_body", False)
            if message.get("body"):
                yield message["body"]

    async def whole(self) -> bytes:
        """The body, complete."""
        return b"".join([piece async for piece in self])

    async def _next(self) -> Message:
        assert self._task is not None
        arriving = asyncio.ensure_future(self._pieces.get())
        await asyncio.wait({self._task, arriving}, return_when=asyncio.FIRST_COMPLETED)
        if arriving.done():
            return arriving.result()
        arriving.cancel()
        self._task.result()
        raise ConnectionError("the application ended its answer too early")

    async def _run(self) -> None:
        await self._app(self._scope, self._receive, self._pieces.put)

    async def _receive(self) -> Message:
        if not self._is_asked:
            self._is_asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._has_left.wait()
        return {"type": "http.disconnect"}
