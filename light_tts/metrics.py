"""Every metric of the server, with its unit; all series exist from the start, so that a grep finds them on an idle
server. Knows nothing of HTTP frameworks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Outcome = Literal["success", "failure", "abort"]

SHORT_TEXT_ROUTE = "/inference_short"
REJECTION_REASONS = ("overloaded", "rate_limited", "not_ready", "unauthorized", "forbidden", "too_large", "invalid")
STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")

_FIRST_AUDIO_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5)
_SHORT_TEXT_BUCKETS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_LATENCY_BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_LENGTH_BUCKETS = (10, 20, 50, 100, 200, 500, 1000, 5000)
_RTF_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2)
_UNDERRUN_BUCKETS_S = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_STEP_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


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
            "Characters of text of a request.",
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
        self.audio_s = Counter("tts_audio_seconds", "Seconds of speech made for requests.", registry=registry)
        self.tokens = Counter("tts_llm_tokens", "Language-model tokens.", ["kind"], registry=registry)
        self.underrun_s = Histogram(
            "tts_stream_underrun_seconds",
            "How late a streamed chunk came against real-time playback; 0 when in time.",
            buckets=_UNDERRUN_BUCKETS_S,
            registry=registry,
        )
        self._declare_short_texts()
        self._declare_engine()
        self._create_series(synthesis_routes, routes)

    def _declare_short_texts(self) -> None:
        """Requests of `/inference_short`, and the cache of phrases, whoever asks it."""
        registry = self.registry
        self.short_latency_s = Histogram(
            "short_text_latency_seconds",
            "Short text, from acceptance to the end of its answer.",
            buckets=_SHORT_TEXT_BUCKETS_S,
            registry=registry,
        )
        self.short_in_flight = Gauge("short_text_concurrent_requests", "Short texts being answered.", registry=registry)
        self.short_hit_rate = Gauge(
            "short_text_cache_hit_rate", "Share of lookups that found their phrase, since the start.", registry=registry
        )
        self.short_hits = Counter("short_text_cache_hits", "Phrases found in the cache.", registry=registry)
        self.short_misses = Counter("short_text_cache_misses", "Phrases that had to be spoken.", registry=registry)
        self.short_entries = Gauge("short_text_cache_entries", "Phrases that are kept.", registry=registry)
        self.short_bytes = Gauge("short_text_cache_bytes", "Bytes of their samples.", registry=registry)

    def _declare_engine(self) -> None:
        """What happens inside the engine: histograms are fed by its events, the others read when asked for."""
        registry = self.registry
        self.llm_step_s = Histogram(
            "tts_llm_step_seconds", "One step of a language model.", buckets=_STEP_BUCKETS_S, registry=registry
        )
        self.llm_batch = Histogram(
            "tts_llm_batch_size", "Sequences in one step.", buckets=_BATCH_BUCKETS, registry=registry
        )
        self.flow_step_s = Histogram(
            "tts_flow_step_seconds",
            "One Euler step of a flow call, its encoder included.",
            buckets=_STEP_BUCKETS_S,
            registry=registry,
        )
        self.flow_batch = Histogram(
            "tts_flow_batch_size", "Streams in one flow call.", buckets=_BATCH_BUCKETS, registry=registry
        )
        self.vocoder_s = Histogram(
            "tts_vocoder_seconds", "One vocoder call.", buckets=_STEP_BUCKETS_S, registry=registry
        )
        self.restarts = Counter("tts_engine_restarts", "Stages started again after they had died.", registry=registry)
        self.retries = Counter(
            "tts_requests_retried", "Requests begun again after their stage had died.", registry=registry
        )
        self.kv_blocks_used = Gauge("tts_kv_blocks_used", "Pages of the KV cache that are held.", registry=registry)
        self.kv_blocks_total = Gauge("tts_kv_blocks_total", "Pages of the KV cache.", registry=registry)
        self.voice_cache_entries = Gauge(
            "tts_voice_cache_entries", "Reference recordings whose features are kept.", registry=registry
        )
        self.voice_cache_hits = Counter(
            "tts_voice_cache_hits", "Reference recordings found among those kept.", registry=registry
        )
        self.voice_cache_misses = Counter(
            "tts_voice_cache_misses", "Reference recordings that had to be read.", registry=registry
        )
        self.prompt_cache_entries = Gauge(
            "tts_prompt_cache_entries", "Voices whose flow states are kept.", registry=registry
        )
        self.prompt_cache_bytes = Gauge("tts_prompt_cache_bytes", "Bytes of those states.", registry=registry)
        self.gpu_memory_bytes = Gauge(
            "lightllm_gpu_memory_usage_bytes",
            "Memory of this process on the device, by its index; 0 where nothing runs on a GPU.",
            ["gpu"],
            registry=registry,
        )

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
        self.gpu_memory_bytes.labels("0")
