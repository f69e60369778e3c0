"""Pure ASGI middleware: API keys. Without configured keys every header is accepted, also none."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from light_tts.server.errors import InvalidKey, error_response

OPEN_PATHS = frozenset({"/health", "/healthz", "/liveness", "/readiness", "/metrics", "/v1"})
LIST_PATHS = ("/v1/models", "/v1/audio/models", "/v1/audio/voices", "/query_tts_model", "/voices")


class ApiKeys:
    """Lets a request pass when it carries one of the keys, as `Authorization: Bearer` or `xi-api-key`.

    Health, metrics and the bare base URL are always open; lists are open to GET when `open_lists` (pickers of some
    clients ask for them without a key).
    """

    def __init__(self, app: ASGIApp, keys: Collection[str], *, open_lists: bool) -> None:
        self._app = app
        self._keys = tuple(key.encode() for key in keys)
        self._open_lists = open_lists

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in ("http", "websocket") or not self._keys or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        if self._has_key(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        error = InvalidKey("The API key is missing or wrong; send it as 'Authorization: Bearer <key>'.")
        scope["state"]["record"].error = error
        if scope["type"] == "websocket":
            await receive()  # the connect event; a close before accepting answers 403
            await send({"type": "websocket.close", "code": 1008, "reason": str(error)})
            return
        await error_response(error, scope["path"])(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        path = scope["path"].rstrip("/") or "/"
        if path in OPEN_PATHS:
            return True
        is_list = path in LIST_PATHS or path.startswith("/v1/models/")
        return self._open_lists and is_list and scope.get("method") in ("GET", "HEAD")

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        sent = bearer.strip() if scheme.lower() == "bearer" else headers.get("xi-api-key", "")
        # Every key is compared, so that the time taken says nothing about which one was near.
        matches = [hmac.compare_digest(sent.encode("utf-8", "surrogateescape"), key) for key in self._keys]
        return any(matches)
