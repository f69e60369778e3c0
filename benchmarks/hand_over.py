"""How long a hop waits from the token that lets it run to the start of its flow call; nothing in between polls.

    python benchmarks/hand_over.py -o benchmarks/results/hand-over.json

Single streams one after the other, the built-in model unless --model-dir is given; read from the requests' own traces,
first hops only: later ones wait for the listener's clock on purpose.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from light_tts.bench.machine import describe_machine
from light_tts.engine import TTSEngine
from light_tts.settings import ModelSettings, Settings
from light_tts.trace import RequestTrace
from light_tts.types import SynthesisRequest

TEXT = "The train to the city leaves at nine in the morning from platform four."


def first_wait_ms(engine: TTSEngine, seed: int, voice: str | None) -> float:
    """Of one request."""
    trace = RequestTrace(str(seed))
    with engine.submit(SynthesisRequest(TEXT, seed=seed, voice=voice), trace=trace) as audio:
        for _ in audio:
            pass
    return hand_over_ms(trace.to_json())


def hand_over_ms(trace: dict[str, Any]) -> float:
    """From 'hop can run' to the start of its flow call, of the first hop of a trace."""
    events = [event for event in trace["traceEvents"] if event.get("cat") == "flow"]
    ready_us, start_us = (min(e["ts"] for e in events if e["name"] == name) for name in ("hop can run", "flow"))
    return (start_us - ready_us) / 1000.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path)
    parser.add_argument("--voice")
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    with TTSEngine.load(Settings(model=ModelSettings(model_dir=arguments.model_dir))) as engine:
        engine.warm_up()
        first_wait_ms(engine, 1_000_000, arguments.voice)
        waits_ms = sorted(first_wait_ms(engine, seed, arguments.voice) for seed in range(arguments.requests))
    report: dict[str, Any] = {
        "command": " ".join(sys.argv),
        "machine": describe_machine(),
        "p50_ms": round(statistics.median(waits_ms), 3),
        "p95_ms": round(waits_ms[int(0.95 * len(waits_ms))], 3),
        "most_ms": round(waits_ms[-1], 3),
        "waits_ms": [round(wait_ms, 3) for wait_ms in waits_ms],
    }
    print(json.dumps({name: value for name, value in report.items() if name.endswith("_ms")}))
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
