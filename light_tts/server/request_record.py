"""What is known about one request; at its end it becomes metrics and one log line."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import structlog

from light_tts.metrics import Metrics, Outcome
from light_tts.server.errors import error_code, rejection_reason
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
    has_left:       True when the client went away before the end.
    """

    request_id: str
    route: str
    is_synthesis: bool
    caller_request_id: str | None = None
    session_id: str | None = None
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

    def finish(self, metrics: Metrics) -> None:
        """Count it and write its line. Called once, when nothing more will be sent."""
        total_s = time.monotonic() - self.started_s
        metrics.responses.labels(self.route, f"{(self.status or 500) // 100}xx").inc()
        reason = None if self.error is None else rejection_reason(self.error)
        if reason is not None:
            metrics.rejections.labels(reason).inc()
        if self.is_synthesis:
            self._count_synthesis(metrics, total_s)
        self._log(total_s)

    def _count_synthesis(self, metrics: Metrics, total_s: float) -> None:
        counters = {"success": metrics.successes, "failure": metrics.failures, "abort": metrics.aborts}
        counters[self.outcome].inc()
        metrics.latency_s.labels(self.route).observe(total_s)
        if self.text_chars is not None:
            metrics.text_chars.labels(self.route).observe(self.text_chars)
        if self.first_audio_latency_s is not None:
            metrics.first_audio_s.observe(self.first_audio_latency_s)
        if self.stats is None:
            return
        metrics.audio_s.inc(self.stats.audio_s)
        metrics.tokens.labels("text").inc(self.stats.text_tokens)
        metrics.tokens.labels("speech").inc(self.stats.speech_tokens)
        if self.stats.rtf is not None and self.outcome == "success":
            metrics.rtf.observe(self.stats.rtf)

    def _log(self, total_s: float) -> None:
        write = logger.info if self.is_synthesis else logger.debug
        stats = self.stats or RequestStats()
        speech = (
            {
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
                "prepare_ms": round(stats.prepare_ms, 1),
                "tokens": stats.speech_tokens,
                "cache": None if stats.is_voice_cached is None else "hit" if stats.is_voice_cached else "miss",
                "retries": stats.retries or None,
                "finish": self._finish(stats),
                "text": self.text,
            }
            if self.is_synthesis
            else {"total_ms": _ms(total_s)}
        )
        write(
            "request done",
            id=self.request_id,
            x_request_id=self.caller_request_id,
            x_session_id=self.session_id,
            route=self.route,
            status=self.status,
            error_code=None if self.error is None else error_code(self.error),
            error=None if self.error is None else str(self.error),
            **speech,
        )

    def _finish(self, stats: RequestStats) -> str:
        if self.outcome == "success":
            return stats.finish or "stop"
        return "abort" if self.outcome == "abort" else "error"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000.0, 1)
