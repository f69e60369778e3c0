"""Pure ASGI middleware: `/path/` is `/path`. A redirect would do, but some clients lose their body on it."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class TrailingSlash:
    """Takes the slashes off the end of every path before anybody else sees it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] in ("http", "websocket"):
            # In place: routing writes its findings into the same scope, and those outside read them there.
            scope["path"] = scope["path"].rstrip("/") or "/"
        await self._app(scope, receive, send)
