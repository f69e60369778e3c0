"""What can go wrong between a client and its server.

ClientError
├── NoConnection     nobody listens there
├── TimedOut         a time limit of the connection profile passed
├── AnswerCut        the answer ended before the audio was complete
└── Refused          the server answered with an error: status, code, field, request id
    ├── BadRequest      the request cannot be served as written (400, 404, 413, 415, 422 ...)
    ├── NotAllowed      no key, a wrong one, or one that lacks the right (401, 403)
    ├── ServerBusy      come back in `retry_after_s` (429, 503)
    └── ServerFailed    the server's fault (500, 504 ...)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from light_tts.errors import LightTTSError


class ClientError(LightTTSError):
    """Base of this module's errors."""

    code = "CLIENT"


class NoConnection(ClientError):
    """The server cannot be reached."""

    code = "NO_CONNECTION"


class TimedOut(ClientError):
    """A time limit of the connection profile passed."""

    code = "TIMEOUT"


class AnswerCut(ClientError):
    """The connection ended before the audio was complete; what came is no whole file."""

    code = "ANSWER_CUT"


class Refused(ClientError):
    """The server answered with an error.

    status:         of HTTP; for a WebSocket its close code.
    code:           the server's word for it: "voice_not_found", "EMPTY_TEXT" ...; "" when it gave none.
    field:          the field of the request that is wrong, if the server named one.
    request_id:     under which the server's log has it.
    retry_after_s:  when to come back, if the server said so.
    """

    def __init__(
        self,
        message: str,
        status: int,
        code: str = "",
        *,
        field: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class BadRequest(Refused):
    """The request cannot be served as written."""


class NotAllowed(Refused):
    """The key is missing or wrong, or lacks the right."""


class ServerBusy(Refused):
    """The server, or this key's share of it, is full."""


class ServerFailed(Refused):
    """The server's fault."""


_KINDS: dict[int, type[Refused]] = {401: NotAllowed, 403: NotAllowed, 429: ServerBusy, 503: ServerBusy}
_CLOSE_KINDS: dict[int, type[Refused]] = {1011: ServerFailed, 1012: ServerFailed, 1013: ServerBusy}


def refusal(status: int, body: str, headers: Mapping[str, str]) -> Refused:
    """The error behind an HTTP answer, whichever of the server's two error bodies it has."""
    details = _details(body)
    kind = _KINDS.get(status, BadRequest if status < 500 else ServerFailed)
    message = details.get("message") or details.get("detail") or body[:300] or f"The server answered {status}."
    field = details.get("param")
    return kind(
        str(message),
        status,
        str(details.get("error_code") or details.get("code") or ""),
        field=None if field is None else str(field),
        request_id=headers.get("X-Request-Id"),
        retry_after_s=_seconds(headers.get("Retry-After")),
    )


def session_refusal(close_code: int, message: str, code: str = "") -> Refused:
    """The error behind the end of a WebSocket session."""
    kind = _CLOSE_KINDS.get(close_code, BadRequest)
    return kind(message or f"The server closed the session with {close_code}.", close_code, code)


def _details(body: str) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    if not isinstance(answer, dict):
        return {}
    inner = answer.get("error")
    return inner if isinstance(inner, dict) else answer


def _seconds(word: str | None) -> float | None:
    try:
        return None if word is None else float(word)
    except ValueError:
        return None
