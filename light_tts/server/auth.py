"""Pure ASGI middleware: API keys. Without configured keys every header is accepted, also none."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from light_tts.errors import LightTTSError
from light_tts.server.errors import Forbidden, InvalidKey
from light_tts.server.refusal import refuse

OPEN_PATHS = frozenset({"/", "/health", "/healthz", "/liveness", "/readiness", "/metrics", "/v1"})
LIST_PATHS = ("/v1/models", "/v1/audio/models", "/v1/audio/voices", "/query_tts_model", "/voices")
VOICE_PATHS = ("/v1/audio/voices", "/voices")
_READING = ("GET", "HEAD")


class ApiKeys:
    """Lets a request pass when it carries one of the keys, as `Authorization: Bearer` or `xi-api-key`.

    Health, metrics, the test page and the bare base URL are always open; lists are open to GET when `open_lists`:
    pickers of some clients ask for them without a key. Where there are admin keys, voices are added and removed with
    them only; they open everything else too. The key becomes the caller of the request's record.
    """

    def __init__(
        self, app: ASGIApp, keys: Collection[str], admin_keys: Collection[str] = (), *, open_lists: bool
    ) -> None:
        self._app = app
        self._keys = tuple(key.encode() for key in (*admin_keys, *keys))
        self._num_admin_keys = len(admin_keys)
        self._is_closed = bool(keys)
        self._open_lists = open_lists

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in ("http", "websocket") or not self._keys:
            await self._app(scope, receive, send)
            return
        number = self._key_number(Headers(scope=scope))
        if number is not None:
            scope["state"]["record"].caller = f"key {number}"
        error = self._error(scope, number)
        if error is None:
            await self._app(scope, receive, send)
        else:
            await refuse(error, scope, receive, send)

    def _error(self, scope: Scope, number: int | None) -> LightTTSError | None:
        if self._num_admin_keys and _changes_voices(scope):
            if number is not None and number >= self._num_admin_keys:
                return Forbidden("This API key may not add or remove voices; an admin key is needed.")
        elif not self._is_closed or self._is_open(scope):
            return None
        if number is None:
            return InvalidKey("The API key is missing or wrong; send it as 'Authorization: Bearer <key>'.")
        return None

    def _is_open(self, scope: Scope) -> bool:
        path = scope["path"].rstrip("/") or "/"
        if path in OPEN_PATHS:
            return True
        is_list = path in LIST_PATHS or path.startswith("/v1/models/")
        return self._open_lists and is_list and scope.get("method") in _READING

    def _key_number(self, headers: Headers) -> int | None:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        sent = [bearer.strip() if scheme.lower() == "bearer" else "", headers.get("xi-api-key", "")]
        # Every key is compared, so that the time taken says nothing about which one was near.
        matches = [
            number
            for number, key in enumerate(self._keys)
            for word in sent
            if hmac.compare_digest(word.encode("utf-8", "surrogateescape"), key)
        ]
        return matches[0] if matches else None


def _changes_voices(scope: Scope) -> bool:
    path = scope["path"].rstrip("/")
    is_voice = any(path == known or path.startswith(known + "/") for known in VOICE_PATHS)
    return is_voice and scope.get("method") not in (*_READING, "OPTIONS")
