"""How encoded audio is laid into an HTTP body: as it is, or as server-sent events."""

from __future__ import annotations

import base64
import json
from typing import Any, Protocol

from light_tts.server.errors import error_body
from light_tts.types import RequestStats


class Framing(Protocol):
    """Wraps the pieces of one answer.

    media_type:   of the body; None keeps the audio format's.
    ping:         sent while nothing else is, so that clients with a time limit between bytes stay; b"" for none.
    """

    media_type: str | None
    ping: bytes

    def piece(self, audio: bytes) -> bytes:
        """Some bytes of the audio file."""

    def end(self, stats: RequestStats) -> bytes:
        """After the last piece."""

    def failure(self, error: Exception) -> bytes:
        """Before the connection is cut; b"" when there is no place for words."""


class RawFraming:
    """The audio file itself."""

    media_type: str | None = None
    ping = b""

    def piece(self, audio: bytes) -> bytes:
        """As it is."""
        return audio

    def end(self, stats: RequestStats) -> bytes:
        """Nothing."""
        return b""

    def failure(self, error: Exception) -> bytes:
        """Nothing: words would be heard as noise."""
        return b""


class EventFraming:
    """`stream_format: sse`: base64 pieces in `speech.audio.delta` events, token counts in `speech.audio.done`."""

    media_type: str | None = "text/event-stream"
    ping = b": ping\n\n"

    def piece(self, audio: bytes) -> bytes:
        """One delta event."""
        return _event({"type": "speech.audio.delta", "audio": base64.b64encode(audio).decode("ascii")})

    def end(self, stats: RequestStats) -> bytes:
        """The done event."""
        usage = {
            "input_tokens": stats.text_tokens,
            "output_tokens": stats.speech_tokens,
            "total_tokens": stats.text_tokens + stats.speech_tokens,
        }
        return _event({"type": "speech.audio.done", "usage": usage})

    def failure(self, error: Exception) -> bytes:
        """The error event."""
        return _event({"type": "error", **error_body(error, openai=True)})


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()
