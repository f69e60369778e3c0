"""Who counts requests: this process, or the one that owns the engine when several serve HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from light_tts.metrics import SHORT_TEXT_ROUTE, Metrics, Outcome
from light_tts.server.engine_metrics import EngineMetrics
from light_tts.types import RequestStats


@dataclass(frozen=True)
class RequestSummary:
    """What is counted of one request, in plain values.

    route:          the route's pattern, "other" for unknown paths.
    rejection:      label of `tts_requests_rejected_total`; None when it was not refused.
    total_s:        from acceptance to the end.
    first_audio_s:  last byte of the request to first byte of audio; None without audio.
    late_s:         of each streamed chunk after the first: how late it came against real-time playback, 0 in time.
    """

    route: str
    status: int | None
    is_synthesis: bool
    outcome: Outcome
    rejection: str | None
    total_s: float
    first_audio_s: float | None
    text_chars: int | None
    late_s: tuple[float, ...]
    stats: RequestStats | None


class RequestObserver(Protocol):
    """Is told of every request. Called on the event loop: must not block, but for `page`."""

    def began(self, route: str) -> None:
        """A synthesis request has been accepted."""

    def ended(self, summary: RequestSummary) -> None:
        """Nothing more will be sent to a request; synthesis requests had been announced by `began`."""

    def page(self) -> bytes:
        """All metrics in the Prometheus text format. May take a round trip to the engine."""


class ServerMetrics:
    """The observer that counts here.

    health, gpu_memory:  snapshots of the engine, or what is known while it loads.
    engine:              listens to the engine's events.
    """

    def __init__(
        self,
        metrics: Metrics,
        health: Callable[[], dict[str, Any]],
        gpu_memory: Callable[[], dict[str, Any] | None],
    ) -> None:
        self.engine = EngineMetrics(metrics)
        self._metrics = metrics
        self._health = health
        self._gpu_memory = gpu_memory
        self._sampling = threading.Lock()

    def began(self, route: str) -> None:
        """See RequestObserver."""
        self._metrics.requests.inc()
        self._count_in_flight(route, 1)

    def ended(self, summary: RequestSummary) -> None:
        """See RequestObserver."""
        metrics = self._metrics
        metrics.responses.labels(summary.route, f"{(summary.status or 500) // 100}xx").inc()
        if summary.rejection is not None:
            metrics.rejections.labels(summary.rejection).inc()
        if summary.is_synthesis:
            self._count_in_flight(summary.route, -1)
            self._count_synthesis(summary)

    def lost(self, routes: Iterable[str]) -> None:
        """Requests to these routes had begun and will not be heard of again: their process has died."""
        for route in routes:
            self._count_in_flight(route, -1)
            self._metrics.aborts.inc()

    def page(self) -> bytes:
        """See RequestObserver."""
        health, gpu_memory = self._health(), self._gpu_memory()
        with self._sampling:
            self.engine.sample(health, gpu_memory)
        return self._metrics.render()

    def _count_in_flight(self, route: str, change: int) -> None:
        self._metrics.in_flight.inc(change)
        if route == SHORT_TEXT_ROUTE:
            self._metrics.short_in_flight.inc(change)

    def _count_synthesis(self, summary: RequestSummary) -> None:
        metrics, stats = self._metrics, summary.stats
        counters = {"success": metrics.successes, "failure": metrics.failures, "abort": metrics.aborts}
        counters[summary.outcome].inc()
        metrics.latency_s.labels(summary.route).observe(summary.total_s)
        if summary.route == SHORT_TEXT_ROUTE and summary.outcome == "success":
            metrics.short_latency_s.observe(summary.total_s)
        if summary.text_chars is not None:
            metrics.text_chars.labels(summary.route).observe(summary.text_chars)
        if summary.first_audio_s is not None:
            metrics.first_audio_s.observe(summary.first_audio_s)
        for late_s in summary.late_s:
            metrics.underrun_s.observe(late_s)
        if stats is None or not stats.speech_tokens:
            return  # nothing was made for it: the phrase was there, or is on another request's account
        metrics.audio_s.inc(stats.audio_s)
        metrics.tokens.labels("text").inc(stats.text_tokens)
        metrics.tokens.labels("speech").inc(stats.speech_tokens)
        if stats.rtf is not None and summary.outcome == "success":
            metrics.rtf.observe(stats.rtf)
