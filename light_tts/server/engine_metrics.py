"""The engine's events and snapshots as metrics and running totals."""

from __future__ import annotations

from typing import Any

from light_tts.events import AcousticCall, LLMStep
from light_tts.metrics import Metrics


class EngineMetrics:
    """An `EngineEvents` listener. The totals are for statistics, which compare two moments."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._seen_hits = self._seen_misses = 0
        self.num_steps = 0
        self.num_step_sequences = 0
        self.num_step_rows = 0
        self.num_calls = 0
        self.num_call_hops = 0
        self.audio_s = 0.0

    def llm_step(self, step: LLMStep) -> None:
        """See `EngineEvents`."""
        self._metrics.llm_step_s.observe(step.seconds)
        self._metrics.llm_batch.observe(step.sequences)
        self.num_steps += 1
        self.num_step_sequences += step.sequences
        self.num_step_rows += step.rows

    def acoustic_call(self, call: AcousticCall) -> None:
        """See `EngineEvents`."""
        self._metrics.flow_step_s.observe(call.flow_s / call.flow_steps)
        self._metrics.flow_batch.observe(call.hops)
        self._metrics.vocoder_s.observe(call.vocoder_s)
        self.num_calls += 1
        self.num_call_hops += call.hops
        self.audio_s += call.audio_s

    def stage_restarted(self, stage: str) -> None:
        """See `EngineEvents`."""
        self._metrics.restarts.inc()

    def request_retried(self) -> None:
        """See `EngineEvents`."""
        self._metrics.retries.inc()

    def sample(self, health: dict[str, Any], gpu_memory: dict[str, Any] | None) -> None:
        """Set what is read rather than told. health: of the engine, or the little that is known while it loads."""
        metrics = self._metrics
        metrics.engine_up.set(1 if health["ready"] else 0)
        metrics.queued.set(health["queued"] + health.get("llm", {}).get("waiting", 0))
        if "llm" in health:
            metrics.kv_blocks_used.set(health["llm"]["kv_blocks_used"])
            metrics.kv_blocks_total.set(health["llm"]["kv_blocks_total"])
            metrics.prompt_cache_entries.set(health["acoustic"]["prompt_cache_entries"])
            metrics.prompt_cache_bytes.set(health["acoustic"]["prompt_cache_bytes"])
            self._sample_voice_cache(health["voice_cache"])
        if gpu_memory is not None:
            metrics.gpu_memory_bytes.labels(gpu_memory["device"]).set(gpu_memory["used_bytes"])

    def _sample_voice_cache(self, stats: dict[str, int]) -> None:
        self._metrics.voice_cache_entries.set(stats["entries"])
        self._metrics.voice_cache_hits.inc(stats["hits"] - self._seen_hits)
        self._metrics.voice_cache_misses.inc(stats["misses"] - self._seen_misses)
        self._seen_hits, self._seen_misses = stats["hits"], stats["misses"]
