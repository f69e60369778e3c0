"""The periodic line: how much work the engine has, and how fast it does it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from light_tts.server.engine_metrics import EngineMetrics

if TYPE_CHECKING:
    from light_tts.speech_engine import SpeechEngine

logger = structlog.stdlib.get_logger("light_tts.stats")


@dataclass(frozen=True)
class _Moment:
    """Totals since the start."""

    at_s: float
    speech_tokens: int = 0
    rows: int = 0
    steps: int = 0
    sequences: int = 0
    calls: int = 0
    hops: int = 0
    audio_s: float = 0.0


class StatsLog:
    """Writes one line per interval at level info.

    totals:  what the engine's events have come to.
    """

    def __init__(self, engine: SpeechEngine, totals: EngineMetrics, interval_s: float) -> None:
        self._engine = engine
        self._totals = totals
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="stats", daemon=True)
        self._before = self._moment(engine.health())

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._stopped.set()
        self._thread.join()

    def line(self) -> dict[str, object]:
        """What happened since the last call."""
        health = self._engine.health()
        before, now = self._before, self._moment(health)
        self._before = now
        seconds = max(now.at_s - before.at_s, 1e-6)
        generated = now.speech_tokens - before.speech_tokens
        llm = health.get("llm", {})
        memory = self._engine.gpu_memory()
        return {
            "running": health["running"],
            "queued": health["queued"],
            "prompt_tokens_per_s": round(max(0, now.rows - before.rows - generated) / seconds, 1),
            "speech_tokens_per_s": round(generated / seconds, 1),
            "audio_s_per_s": round((now.audio_s - before.audio_s) / seconds, 2),
            "llm_batch": _mean(now.sequences - before.sequences, now.steps - before.steps),
            "flow_batch": _mean(now.hops - before.hops, now.calls - before.calls),
            "kv_blocks": f"{llm.get('kv_blocks_used', 0)}/{llm.get('kv_blocks_total', 0)}",
            "gpu_memory_mb": None if memory is None else memory["process_bytes"] // 2**20,
        }

    def _moment(self, health: dict[str, Any]) -> _Moment:
        totals = self._totals
        return _Moment(
            at_s=time.monotonic(),
            speech_tokens=int(health.get("llm", {}).get("speech_tokens", 0)),
            rows=totals.num_step_rows,
            steps=totals.num_steps,
            sequences=totals.num_step_sequences,
            calls=totals.num_calls,
            hops=totals.num_call_hops,
            audio_s=totals.audio_s,
        )

    def _work(self) -> None:
        while not self._stopped.wait(self._interval_s):
            logger.info("engine stats", **self.line())


def _mean(total: int, count: int) -> float | None:
    return round(total / count, 2) if count else None
