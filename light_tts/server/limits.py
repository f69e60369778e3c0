"""Pure ASGI middleware: no body is read beyond a number of bytes."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from light_tts.server.errors import RequestTooLarge


class BodyLimit:
    """Raises RequestTooLarge out of `receive` as soon as a body is known to be over `max_bytes`."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        num_bytes = 0

        async def receive_counted() -> Message:
            nonlocal num_bytes
            if declared.isdecimal() and int(declared[:20]) > self._max_bytes:
                raise self._too_large()
            message = await receive()
            if message["type"] == "http.request":
                num_bytes += len(message.get("body", b""))
                if num_bytes > self._max_bytes:
                    raise self._too_large()
            return message

        await self._app(scope, receive_counted, send)

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(f"The body is larger than {self._max_bytes} bytes.")
