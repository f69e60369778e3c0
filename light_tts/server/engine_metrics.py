"""The engine's events and snapshots as metrics and running totals."""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter

from light_tts.events import AcousticCall, LLMStep
from light_tts.metrics import Metrics


class EngineMetrics:
    """An `EngineEvents` listener. The totals are for statistics, which compare two moments."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._seen: dict[Counter, int] = {}
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
            voices = health["voice_cache"]
            metrics.voice_cache_entries.set(voices["entries"])
            self._follow(metrics.voice_cache_hits, voices["hits"])
            self._follow(metrics.voice_cache_misses, voices["misses"])
            self._sample_phrases(health["phrase_cache"])
        if gpu_memory is not None:
            own_bytes = gpu_memory["process_bytes"]
            metrics.gpu_memory_bytes.labels(str(gpu_memory["index"])).set(own_bytes)

    def _sample_phrases(self, phrases: dict[str, int]) -> None:
        metrics = self._metrics
        metrics.short_entries.set(phrases["entries"])
        metrics.short_bytes.set(phrases["bytes"])
        self._follow(metrics.short_hits, phrases["hits"])
        self._follow(metrics.short_misses, phrases["misses"])
        metrics.short_hit_rate.set(phrases["hits"] / max(1, phrases["hits"] + phrases["misses"]))

    def _follow(self, counter: Counter, total: int) -> None:
        """Bring a counter to a total that is kept elsewhere."""
        counter.inc(total - self._seen.get(counter, 0))
        self._seen[counter] = total
