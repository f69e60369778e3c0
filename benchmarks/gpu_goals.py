"""The figures that the project holds itself to, of a full-size checkpoint on one GPU, in one process.

    light-tts verify --make-random /tmp/random --family cosyvoice2
    python benchmarks/gpu_goals.py --model-dir /tmp/random -o benchmarks/results/gpu-goals-cosyvoice2.json

Random weights serve: speed does not depend on values, and their speech ends at the length limits of the text. The load
generator shares the process with the engine (no web stack); players start at the first audio and count underruns.

idle        first audio of one request after the other, warm voice, by tokens of the first hop
open        first audio of requests that arrive at random, 5 s of audio each, streamed
listeners   so many people who listen in real time, one answer after the other
offline     seconds of audio per second, whole answers, many at once
one second  texts of one second that arrive at random, whole answers, and how long each took
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from light_tts.bench.inproc import EngineTarget
from light_tts.bench.load import LoadPlan, run_load
from light_tts.bench.machine import describe_machine
from light_tts.bench.summary import Summary, summarise
from light_tts.bench.target import SpeechOptions
from light_tts.engine import TTSEngine
from light_tts.models.random_weights import VOICE_NAME
from light_tts.settings import AcousticSettings, EngineSettings, LLMSettings, ModelSettings, Settings
from light_tts.types import SynthesisRequest

WORDS = [
    "the",
    "train",
    "to",
    "the",
    "city",
    "leaves",
    "at",
    "nine",
    "in",
    "the",
    "morning",
    "and",
    "the",
    "next",
    "one",
    "soon",
    "after",
]


SEEDS = 32  # of which a text's length is the mean
ALONE = 6  # recorded sizes of flow calls: a stream by itself needs no others


def settings_for(
    model_dir: Path, first_hop_tokens: int, *, is_first: bool, whole_answer_mask: Literal["full", "chunk"] = "full"
) -> Settings:
    return Settings(
        model=ModelSettings(model_dir=model_dir, device="cuda"),
        llm=LLMSettings(max_running=512, max_total_tokens=262144, graph_max_batch_size=256),
        acoustic=AcousticSettings(
            first_hop_tokens=first_hop_tokens,
            max_batch=64,
            prompt_cache_mb=4096,
            stream_cache_mb=57344,
            flow_graphs=AcousticSettings().flow_graphs if is_first else ALONE,
            whole_answer_mask=whole_answer_mask,
        ),
        engine=EngineSettings(max_concurrent_requests=4096),
    )


def text_of(wanted_s: float, engine: TTSEngine) -> str:
    """The text whose random speech comes nearest to the wanted length: words are added until it is longer."""
    nearest, best_s = "", wanted_s
    for count in range(1, 200):
        text = " ".join(WORDS[index % len(WORDS)] for index in range(count)) + "."
        mean_s = _mean_audio_s(engine, text)
        if abs(mean_s - wanted_s) < best_s:
            nearest, best_s = text, abs(mean_s - wanted_s)
        if mean_s >= wanted_s:
            return nearest
    raise SystemExit(f"no text of up to 200 words speaks for {wanted_s} s")


def _mean_audio_s(engine: TTSEngine, text: str) -> float:
    """How long a text is spoken for, over seeds: of some networks a few say little of all."""
    answers = [
        engine.submit(SynthesisRequest(text, voice=VOICE_NAME, stream=False, seed=seed)) for seed in range(SEEDS)
    ]
    for answer in answers:
        with answer:
            for _ in answer:
                pass
    return sum(answer.stats.audio_s for answer in answers) / SEEDS


def load(engine: TTSEngine, text: str, *, stream: bool, **plan: Any) -> Summary:
    target = EngineTarget(engine, SpeechOptions(voice=VOICE_NAME, stream=stream))
    result = asyncio.run(run_load(target, [text], LoadPlan(warmup_requests=1, timeout_s=60.0, **plan), stream=stream))
    return summarise(result.rows, result.client_lag_s)


def line(name: str, summary: Summary) -> str:
    first, total = summary.first_audio_s, summary.total_s
    parts = [
        f"{name:36} ok {summary.requests_ok}/{summary.requests}",
        f"{summary.audio_s_per_s:7.1f} audio s/s {summary.requests_per_s:6.1f} req/s",
    ]
    if first is not None:
        parts.append(f"first p50 {first.p50 * 1e3:.0f} p95 {first.p95 * 1e3:.0f} p99 {first.p99 * 1e3:.0f} ms")
    if total is not None:
        parts.append(f"total p95 {total.p95 * 1e3:.0f} ms")
    parts.append(f"underrun {summary.requests_underrun}/{summary.requests_played} lag {summary.client_lag_p99_s:.3f}")
    return "  ".join(parts) + (f"  {summary.errors}" if summary.errors else "")


def measure(engine: TTSEngine, arguments: argparse.Namespace, is_first: bool) -> Iterator[tuple[str, Summary]]:
    """The figures of one engine; of all but the first only those of a stream by itself."""
    five_s = text_of(5.0, engine)
    yield "idle", load(engine, five_s, stream=True, workers=1, num_requests=20)
    if not is_first:
        return
    seconds = {"duration_s": arguments.seconds}
    for rate in arguments.rates:
        yield f"open {rate:g}/s", load(engine, five_s, stream=True, mode="open", rate_hz=rate, **seconds)
    for count in arguments.listeners:
        yield f"{count} listeners", load(engine, five_s, stream=True, mode="listeners", workers=count, **seconds)
    for workers in arguments.offline:
        plan = {"workers": workers, "num_requests": 3 * workers, "duration_s": arguments.seconds}
        yield f"offline, {workers} at once", load(engine, five_s, stream=False, **plan)
    one_s = text_of(1.0, engine)
    for rate in arguments.one_second:
        yield f"one second {rate:g}/s", load(engine, one_s, stream=False, mode="open", rate_hz=rate, duration_s=4.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--first-hop", type=int, nargs="+", default=[22, 10], help="tokens; the first gets every run")
    parser.add_argument("--rates", type=float, nargs="*", default=[20.0, 100.0], help="requests per second")
    parser.add_argument("--listeners", type=int, nargs="*", default=[150, 400])
    parser.add_argument("--offline", type=int, nargs="*", default=[128], help="requests at once")
    parser.add_argument("--one-second", type=float, nargs="*", default=[120.0, 300.0], help="texts per second")
    parser.add_argument(
        "--whole-answer-mask", choices=["full", "chunk"], default="full", help="of what is not streamed"
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"command": " ".join(sys.argv), "machine": describe_machine(), "runs": {}}
    for first_hop in arguments.first_hop:
        start_s, is_first = time.perf_counter(), first_hop == arguments.first_hop[0]
        settings = settings_for(
            arguments.model_dir, first_hop, is_first=is_first, whole_answer_mask=arguments.whole_answer_mask
        )
        with TTSEngine.load(settings) as engine:
            loaded_s = time.perf_counter() - start_s
            engine.warm_up()
            warm_s = time.perf_counter() - start_s
            print(f"first hop {first_hop}: loaded in {loaded_s:.1f} s, warm after {warm_s:.1f} s", flush=True)
            report[f"start_first_hop_{first_hop}"] = {"loaded_s": round(loaded_s, 1), "warm_s": round(warm_s, 1)}
            for name, summary in measure(engine, arguments, is_first):
                report["runs"][f"{name}, first hop {first_hop}"] = asdict(summary)
                print(line(f"{name}, first hop {first_hop}", summary), flush=True)
                if arguments.output:  # each run is kept, also when a later one does not end
                    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
            if is_first:
                report["stage_costs"], report["health"] = engine.stage_costs, engine.health()
        del engine  # and with it its recordings and caches, before the next one looks what is free
        gc.collect()
        torch.cuda.empty_cache()
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
