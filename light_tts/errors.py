"""Every error a caller may meet, as one tree. Knows nothing of HTTP: `server/errors.py` maps it to status codes.

LightTTSError
├── InvalidRequest        the caller's mistake; names the field
│   ├── EmptyText         nothing speakable in the text
│   ├── TextTooLong
│   ├── BadAudio          reference audio that cannot be used
│   │   └── UndecodableAudio
│   ├── UnknownVoice
│   ├── UnknownModel
│   └── Unsupported       asked for something this model or installation does not have
├── Overloaded            bounded queue full; try again
├── NotReady              the engine loads, or cannot serve now
├── RateLimited           the caller has used up its own share; try again
├── DeadlineExceeded      the request's time ran out
├── Cancelled             the caller went away or asked to stop
├── CheckpointError       model directory or weight file wrong or incomplete
├── ConfigError           a setting with a bad value
└── EngineFailure         our fault
    └── StageLost         a thread of the engine died
"""

from __future__ import annotations


class LightTTSError(Exception):
    """Base of all errors raised on purpose. `str(error)` is one clear sentence for the user."""

    code = "INTERNAL"


class InvalidRequest(LightTTSError):
    """The request cannot be served as written. `field` names the part that is wrong."""

    code = "INVALID_VALUE"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class EmptyText(InvalidRequest):
    """The text is empty, blank, or only punctuation."""

    code = "EMPTY_TEXT"


class TextTooLong(InvalidRequest):
    """The text is over a stated limit."""

    code = "TEXT_TOO_LONG"


class BadAudio(InvalidRequest):
    """The reference audio cannot be decoded or is too short, too long, or of too low a rate."""

    code = "BAD_AUDIO"


class UndecodableAudio(BadAudio):
    """The bytes are not a recording in any container that is read."""


class UnknownVoice(InvalidRequest):
    """No voice of that name is registered; the message lists those that are."""

    code = "UNKNOWN_VOICE"


class UnknownModel(InvalidRequest):
    """No model or style of that name is served; the message lists those that are."""

    code = "UNKNOWN_MODEL"


class Unsupported(InvalidRequest):
    """Valid in general, but not available with this model or installation."""

    code = "UNSUPPORTED"


class Overloaded(LightTTSError):
    """A bounded queue is full. `retry_after_s` is an estimate of when to come back."""

    code = "OVERLOADED"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimited(LightTTSError):
    """The caller has used up its own share. `retry_after_s` is when to come back."""

    code = "RATE_LIMITED"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(LightTTSError):
    """The engine is still loading, or cannot serve now."""

    code = "NOT_READY"


class DeadlineExceeded(LightTTSError):
    """The request ran out of time."""

    code = "TIMEOUT"


class Cancelled(LightTTSError):
    """The request was cancelled by its caller."""

    code = "CANCELLED"


class CheckpointError(LightTTSError):
    """A model directory or weight file is wrong, incomplete, or of another kind than expected."""

    code = "CHECKPOINT"


class ConfigError(LightTTSError):
    """A setting has a bad value; the message names it, the value and what is allowed."""

    code = "CONFIG"


class EngineFailure(LightTTSError):
    """Something inside failed; the request ends, the server goes on."""

    code = "INFERENCE_FAILED"


class StageLost(EngineFailure):
    """A thread of the engine died with the request in it. A request that has sent nothing may be begun again."""
