"""Errors to answers: one table from the error tree to status, code and body, for both families of endpoints.

`/v1/...` answers with the body of the OpenAI API, everything else with `{"message", "detail", "error_code"}`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

from light_tts.errors import (
    BadAudio,
    Cancelled,
    DeadlineExceeded,
    EmptyText,
    EngineFailure,
    InvalidRequest,
    LightTTSError,
    NotReady,
    Overloaded,
    RateLimited,
    StageLost,
    TextTooLong,
    UndecodableAudio,
    UnknownModel,
    UnknownVoice,
    Unsupported,
)


class MalformedBody(InvalidRequest):
    """The body is not what its content type says: broken JSON, form or UTF-8."""

    code = "INVALID_BODY"


class UnsupportedContent(InvalidRequest):
    """A content type or content encoding that is not read here."""

    code = "UNSUPPORTED_MEDIA_TYPE"


class InvalidFields(InvalidRequest):
    """Fields that are missing or of a wrong type; `details` has one entry for each, in FastAPI's form."""

    code = "INVALID_FIELDS"

    def __init__(self, details: list[dict[str, Any]]) -> None:
        first = details[0]
        super().__init__("; ".join(f"{entry['loc'][-1]}: {entry['msg']}" for entry in details), str(first["loc"][-1]))
        self.details = details


class ConflictingFields(InvalidRequest):
    """One thing said twice with different values."""

    code = "CONFLICTING_FIELDS"


class RequestTooLarge(InvalidRequest):
    """The body or the recording in it is over the byte limit."""

    code = "REQUEST_TOO_LARGE"


class NoDefaultVoice(UnknownVoice):
    """A request without a voice, and no default one."""

    code = "NO_DEFAULT_VOICE"


class NotFound(InvalidRequest):
    """No such path or object."""

    code = "NOT_FOUND"


class MethodNotAllowed(InvalidRequest):
    """The path exists, but not for this method."""

    code = "METHOD_NOT_ALLOWED"


class InvalidKey(LightTTSError):
    """The key is missing or wrong."""

    code = "INVALID_API_KEY"


class Forbidden(LightTTSError):
    """The key is known, but lacks the right."""

    code = "FORBIDDEN"


class BrokenAnswer(Exception):
    """An answer whose first bytes were sent cannot be completed; the HTTP server cuts the connection for it."""


@dataclass(frozen=True)
class _Row:
    status: int
    openai_type: str
    openai_code: str
    openai_status: int | None = None  # None: the same
    websocket_code: int = 1008


_TABLE: dict[type[Exception], _Row] = {
    InvalidFields: _Row(422, "invalid_request_error", "invalid_value", 400),
    MalformedBody: _Row(400, "invalid_request_error", "invalid_json"),
    UnsupportedContent: _Row(415, "invalid_request_error", "unsupported_media_type"),
    RequestTooLarge: _Row(413, "invalid_request_error", "request_too_large", websocket_code=1009),
    TextTooLong: _Row(400, "invalid_request_error", "string_above_max_length"),
    EmptyText: _Row(400, "invalid_request_error", "invalid_value"),
    BadAudio: _Row(400, "invalid_request_error", "invalid_value", websocket_code=1003),
    NoDefaultVoice: _Row(400, "invalid_request_error", "voice_not_found"),
    UnknownVoice: _Row(404, "invalid_request_error", "voice_not_found", 400),
    UnknownModel: _Row(404, "invalid_request_error", "model_not_found"),
    Unsupported: _Row(400, "invalid_request_error", "unsupported"),
    NotFound: _Row(404, "invalid_request_error", "not_found"),
    MethodNotAllowed: _Row(405, "invalid_request_error", "method_not_allowed"),
    InvalidRequest: _Row(400, "invalid_request_error", "invalid_value"),
    InvalidKey: _Row(401, "authentication_error", "invalid_api_key"),
    Forbidden: _Row(403, "permission_error", "forbidden"),
    RateLimited: _Row(429, "rate_limit_error", "rate_limit_exceeded", websocket_code=1013),
    Overloaded: _Row(503, "server_error", "overloaded", websocket_code=1013),
    NotReady: _Row(503, "server_error", "not_ready", websocket_code=1013),
    Cancelled: _Row(503, "server_error", "cancelled", websocket_code=1012),
    DeadlineExceeded: _Row(504, "server_error", "timeout", websocket_code=1011),
    Exception: _Row(500, "server_error", "synthesis_failed", websocket_code=1011),
}

# What the engine calls a field, in the words of the OpenAI API.
_OPENAI_PARAMS = {
    "text": "input",
    "tts_text": "input",
    "audio": "ref_audio",
    "prompt_wav": "ref_audio",
    "prompt_audio": "ref_audio",
    "prompt_text": "ref_text",
    "instruction": "instructions",
    "tts_model_name": "model",
    "spk_id": "voice",
}

# What clients of that dialect look for.
_UNDECODABLE = "audio file format is incorrect"

_REJECTION_REASONS: dict[type[Exception], str] = {
    Overloaded: "overloaded",
    NotReady: "not_ready",
    RateLimited: "rate_limited",
    InvalidKey: "unauthorized",
    Forbidden: "forbidden",
    RequestTooLarge: "too_large",
    InvalidRequest: "invalid",
}


def is_openai_path(path: str) -> bool:
    """True for the endpoints that speak the OpenAI API's error body."""
    return path == "/v1" or path.startswith("/v1/")


def error_code(error: Exception) -> str:
    """The stable word for a program: `EMPTY_TEXT`, `OVERLOADED`, ..."""
    return error.code if _is_explained(error) and isinstance(error, LightTTSError) else "INFERENCE_FAILED"


def error_message(error: Exception) -> str:
    """One sentence for the user; never a traceback or a path of this machine."""
    if _is_explained(error):
        return str(error)
    return "The synthesis failed inside the server; its log has the reason under this request's id."


def websocket_code(error: Exception) -> int:
    """The close code of a WebSocket that ends with this error."""
    return _row(error).websocket_code


def rejection_reason(error: Exception) -> str | None:
    """The label of `tts_requests_rejected_total`, None for failures of the work itself."""
    return next((_REJECTION_REASONS[kind] for kind in type(error).__mro__ if kind in _REJECTION_REASONS), None)


def error_body(error: Exception, *, openai: bool) -> dict[str, Any]:
    """The JSON body of the error in the given family."""
    if openai:
        field = getattr(error, "field", None)
        code = _row(error).openai_code
        if isinstance(error, Unsupported) and field == "response_format":
            code = "unsupported_format"
        return {
            "error": {
                "message": error_message(error),
                "type": _row(error).openai_type,
                "param": _OPENAI_PARAMS.get(field, field) if field else None,
                "code": code,
            }
        }
    detail = error.details if isinstance(error, InvalidFields) else None
    message = error_message(error)
    if isinstance(error, UndecodableAudio):
        message = f"{_UNDECODABLE}: {message}"
    return {"message": message, "detail": detail, "error_code": error_code(error)}


def error_status(error: Exception, *, openai: bool) -> int:
    """The HTTP status of the error in the given family."""
    row = _row(error)
    return row.openai_status if openai and row.openai_status is not None else row.status


def error_response(error: Exception, path: str) -> JSONResponse:
    """The whole answer to a request that failed before its first byte."""
    openai = is_openai_path(path)
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, Overloaded | RateLimited):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    elif isinstance(error, NotReady | Cancelled):
        headers["Retry-After"] = "1"
    elif isinstance(error, InvalidKey):
        headers["WWW-Authenticate"] = "Bearer"
    elif _row(error).status == 500 and not isinstance(error, StageLost):
        headers["X-Should-Retry"] = "false"  # the same request would fail again; published SDKs ask first
    # Field values in messages may hold half a surrogate pair, which UTF-8 cannot; JSON escapes can.
    return JSONResponse(_printable(error_body(error, openai=openai)), error_status(error, openai=openai), headers)


def _row(error: Exception) -> _Row:
    return next(_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE)


def _is_explained(error: Exception) -> bool:
    return isinstance(error, LightTTSError) and not isinstance(error, EngineFailure) and _row(error).status != 500


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    return value
