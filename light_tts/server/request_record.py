"""What is known about one request; at its end it becomes metrics and one log line."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import structlog

from light_tts.metrics import Outcome
from light_tts.server.errors import error_code, rejection_reason
from light_tts.server.request_observer import RequestObserver, RequestSummary
from light_tts.types import RequestStats

logger = structlog.stdlib.get_logger("light_tts.requests")


@dataclass
class RequestRecord:
    """One request from acceptance to its end. Times are seconds of `time.monotonic`.

    route:          the route's pattern, "other" for unknown paths.
    is_synthesis:   True for routes that make speech.
    status:         HTTP status; of a WebSocket 101 once accepted.
    received_s:     when the last byte of the request was here.
    error:          why it failed, also after the first byte.
    caller:         whose key it was, where there are keys.
    has_left:       True when the client went away before the end.
    late_s:         of each streamed chunk after the first: how late it came against real-time playback.
    """

    request_id: str
    route: str
    is_synthesis: bool
    caller_request_id: str | None = None
    session_id: str | None = None
    caller: str | None = None
    started_s: float = field(default_factory=time.monotonic)

    status: int | None = None
    received_s: float | None = None
    first_audio_s: float | None = None
    error: Exception | None = None
    has_left: bool = False

    model: str | None = None
    voice: str | None = None
    text_chars: int | None = None
    text: str | None = None  # only where texts may be logged
    stats: RequestStats | None = None
    late_s: list[float] = field(default_factory=list)

    def mark_received(self) -> None:
        """The whole request is here."""
        self.received_s = time.monotonic()

    def mark_first_audio(self) -> None:
        """The first audio goes to the socket."""
        if self.first_audio_s is None:
            self.first_audio_s = time.monotonic()

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        if self.has_left:
            return "abort"
        if self.error is not None or self.status is None or self.status >= 400:
            return "failure"
        return "success"

    @property
    def first_audio_latency_s(self) -> float | None:
        """Last byte of the request to first byte of audio."""
        if self.first_audio_s is None:
            return None
        return self.first_audio_s - (self.received_s or self.started_s)

    def finish(self, observer: RequestObserver) -> None:
        """Have it counted and write its line. Called once, when nothing more will be sent."""
        summary = RequestSummary(
            route=self.route,
            status=self.status,
            is_synthesis=self.is_synthesis,
            outcome=self.outcome,
            rejection=None if self.error is None else rejection_reason(self.error),
            total_s=time.monotonic() - self.started_s,
            first_audio_s=self.first_audio_latency_s,
            text_chars=self.text_chars,
            late_s=tuple(self.late_s),
            stats=self.stats,
        )
        observer.ended(summary)
        self._log(summary.total_s)

    def _log(self, total_s: float) -> None:
        """One line: of a synthesis request always the same keys in the same order, then what only some requests have.

        Source: spec server, 3.3.
        """
        write = logger.info if self.is_synthesis else logger.debug
        extras = {
            "status": self.status,
            "error_code": None if self.error is None else error_code(self.error),
            "error": None if self.error is None else str(self.error),
            "retries": None if self.stats is None else self.stats.retries or None,
            "text": self.text,
        }
        write(
            "request done",
            id=self.request_id,
            x_request_id=self.caller_request_id,
            x_session_id=self.session_id,
            route=self.route,
            **(self._speech(total_s) if self.is_synthesis else {"total_ms": _ms(total_s)}),
            **{name: value for name, value in extras.items() if value is not None},
        )

    def _speech(self, total_s: float) -> dict[str, object]:
        stats = self.stats or RequestStats()
        return {
            "model": self.model,
            "voice": self.voice,
            "text_chars": self.text_chars,
            "segments": stats.segments,
            "prompt_s": round(stats.prompt_s, 2),
            "first_chunk_ms": _ms(self.first_audio_latency_s),
            "total_ms": _ms(total_s),
            "chunks": stats.chunks,
            "audio_s": round(stats.audio_s, 3),
            "rtf": None if stats.rtf is None else round(stats.rtf, 4),
            "llm_ms": round(stats.llm_ms, 1),
            "flow_ms": round(stats.flow_ms, 1),
            "vocoder_ms": round(stats.vocoder_ms, 1),
            "queue_ms": round(stats.queue_ms, 1),
            "tokens": stats.speech_tokens,
            "cache": _found(stats),
            "finish": self._finish(stats),
            "prepare_ms": round(stats.prepare_ms, 1),
        }

    def _finish(self, stats: RequestStats) -> str:
        if self.outcome == "success":
            return stats.finish or "stop"
        return "abort" if self.outcome == "abort" else "error"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000.0, 1)


def _found(stats: RequestStats) -> str | None:
    """hit or miss in the cache that the answer depends on: of phrases for texts looked up there, else of voices."""
    is_cached = stats.is_voice_cached if stats.is_phrase_cached is None else stats.is_phrase_cached
    return None if is_cached is None else "hit" if is_cached else "miss"
