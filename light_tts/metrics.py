"""Every metric of the server, with its unit; all series exist from the start, so that a grep finds them on an idle
server. Knows nothing of HTTP frameworks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Outcome = Literal["success", "failure", "abort"]

REJECTION_REASONS = ("overloaded", "not_ready", "unauthorized", "too_large", "invalid")
STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")

_FIRST_AUDIO_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5)
_LATENCY_BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_LENGTH_BUCKETS = (10, 20, 50, 100, 200, 500, 1000, 5000)
_RTF_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2)
_UNDERRUN_BUCKETS_S = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """The metrics of one server, in a registry of their own.

    synthesis_routes:   routes that make speech; their requests are counted, timed and measured in characters.
    routes:             all routes; their answers are counted by status class.
    """

    def __init__(self, synthesis_routes: Iterable[str] = (), routes: Iterable[str] = ()) -> None:
        self.registry = registry = CollectorRegistry()
        self.first_audio_s = Histogram(
            "first_token_latency_seconds",
            "Last byte of the request to first audio byte.",
            buckets=_FIRST_AUDIO_BUCKETS_S,
            registry=registry,
        )
        self.latency_s = Histogram(
            "lightllm_request_latency_seconds",
            "Synthesis request, from acceptance to its end.",
            ["route"],
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.text_chars = Histogram(
            "request_length_chars",
            "Characters of text per request.",
            ["route"],
            buckets=_LENGTH_BUCKETS,
            registry=registry,
        )
        self.requests = Counter("lightllm_request_count", "Synthesis requests accepted.", registry=registry)
        self.successes = Counter("lightllm_request_success", "Synthesis requests answered whole.", registry=registry)
        self.failures = Counter("lightllm_request_failure", "Synthesis requests refused or failed.", registry=registry)
        self.aborts = Counter("tts_requests_aborted", "Synthesis requests whose client left.", registry=registry)
        self.rejections = Counter(
            "tts_requests_rejected", "Requests refused before any work.", ["reason"], registry=registry
        )
        self.responses = Counter("tts_http_responses", "Answers by route.", ["route", "status"], registry=registry)
        self.in_flight = Gauge("tts_requests_in_flight", "Synthesis requests being served.", registry=registry)
        self.queued = Gauge("tts_requests_queued", "Requests that wait inside the engine.", registry=registry)
        self.engine_up = Gauge("tts_engine_up", "1 when the engine can serve.", registry=registry)
        self.rtf = Histogram("tts_rtf", "Processing time over audio duration.", buckets=_RTF_BUCKETS, registry=registry)
        self.audio_s = Counter("tts_audio_seconds", "Seconds of speech made.", registry=registry)
        self.tokens = Counter("tts_llm_tokens", "Language-model tokens.", ["kind"], registry=registry)
        self.underrun_s = Histogram(
            "tts_stream_underrun_seconds",
            "How late a streamed chunk came against real-time playback; 0 when in time.",
            buckets=_UNDERRUN_BUCKETS_S,
            registry=registry,
        )
        self._create_series(synthesis_routes, routes)

    def render(self) -> bytes:
        """The Prometheus text format, version 0.0.4."""
        return generate_latest(self.registry)

    def _create_series(self, synthesis_routes: Iterable[str], routes: Iterable[str]) -> None:
        for route in synthesis_routes:
            self.latency_s.labels(route)
            self.text_chars.labels(route)
        for route in routes:
            for status in STATUS_CLASSES:
                self.responses.labels(route, status)
        for reason in REJECTION_REASONS:
            self.rejections.labels(reason)
        for kind in ("text", "speech"):
            self.tokens.labels(kind)
