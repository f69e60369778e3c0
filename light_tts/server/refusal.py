"""How middleware turns a request away before any handler sees it."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from light_tts.errors import LightTTSError
from light_tts.server.errors import error_response, websocket_code


async def refuse(error: LightTTSError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the error: over HTTP its status and body, a WebSocket is closed instead of accepted (HTTP 403)."""
    scope["state"]["record"].error = error
    if scope["type"] == "websocket":
        await receive()  # the connect event
        await send({"type": "websocket.close", "code": websocket_code(error), "reason": str(error)})
        return
    await error_response(error, scope["path"])(scope, receive, send)
