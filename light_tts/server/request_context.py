"""Pure ASGI middleware around every request: its id, its record, its count and its log line."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from light_tts.server.errors import BrokenAnswer
from light_tts.server.request_observer import RequestObserver
from light_tts.server.request_record import RequestRecord

_PLAIN_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class RequestContext:
    """Gives each request a RequestRecord in `scope["state"]["record"]` and finishes it.

    routes:            patterns of known routes, without a trailing slash; others are counted as "other".
    synthesis_routes:  those of them that make speech.
    """

    def __init__(
        self, app: ASGIApp, observer: RequestObserver, routes: Collection[str], synthesis_routes: Collection[str]
    ) -> None:
        self._app = app
        self._observer = observer
        self._routes = routes
        self._synthesis_routes = synthesis_routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        record = self._open(scope)
        scope.setdefault("state", {})["record"] = record

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                MutableHeaders(raw=message.setdefault("headers", []))["X-Request-Id"] = record.request_id
            elif message["type"] == "websocket.accept":
                record.status = 101
                MutableHeaders(raw=message.setdefault("headers", []))["X-Request-Id"] = record.request_id
            elif message["type"] == "websocket.close" and record.status is None:
                record.status = 403
            await send(message)

        if record.is_synthesis:
            self._observer.began(record.route)
        try:
            await self._app(scope, receive, send_marked)
        except BaseException as error:
            if record.error is None and not isinstance(error, BrokenAnswer) and isinstance(error, Exception):
                record.error = error
            raise
        finally:
            record.route = self._route_of(scope)
            record.finish(self._observer)

    def _open(self, scope: Scope) -> RequestRecord:
        headers = Headers(scope=scope)
        asked = headers.get("x-request-id")
        is_plain = asked is not None and _PLAIN_ID.fullmatch(asked) is not None
        session_id = headers.get("x-session-id")
        path = _without_slash(scope["path"])
        return RequestRecord(
            request_id=asked if asked is not None and is_plain else uuid.uuid4().hex,
            route=path if path in self._routes else "other",
            is_synthesis=path in self._synthesis_routes,
            caller_request_id=asked if is_plain else None,
            session_id=session_id[:128] if session_id else None,
        )

    def _route_of(self, scope: Scope) -> str:
        pattern = _without_slash(str(getattr(scope.get("route"), "path", scope["path"])))
        return pattern if pattern in self._routes else "other"


def _without_slash(path: str) -> str:
    return path.rstrip("/") or "/"
