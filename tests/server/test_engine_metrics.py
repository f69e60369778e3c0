"""Snapshots of the engine as gauges."""

from light_tts.metrics import Metrics
from light_tts.server.engine_metrics import EngineMetrics


def queued(health):
    metrics = Metrics(["/speak"], ["/speak", "other"])
    EngineMetrics(metrics).sample({"ready": True, "queued": 1, **health}, None)
    (line,) = [line for line in metrics.render().decode().splitlines() if line.startswith("tts_requests_queued ")]
    return float(line.split()[1])


def test_requests_queue_in_front_of_the_engine_and_of_the_language_model():
    """Those over running_max_req_size have been let in, and wait all the same."""
    health = {
        "llm": {"waiting": 2, "kv_blocks_used": 0, "kv_blocks_total": 9},
        "acoustic": {"prompt_cache_entries": 0, "prompt_cache_bytes": 0},
        "voice_cache": {"entries": 0, "hits": 0, "misses": 0},
        "phrase_cache": {"entries": 0, "bytes": 0, "hits": 0, "misses": 0},
    }
    assert queued(health) == 3
    assert queued({}) == 1  # while the engine loads
