"""First figures of a full-size checkpoint: load time, decode steps, first audio, RTF, offline speed, several streams.

    light-tts verify --make-random /tmp/random --family cosyvoice2
    python benchmarks/gpu_first_figures.py --model-dir /tmp/random --voice random -o benchmarks/results/gpu-first.json

Random weights serve: speed does not depend on values. Their speech ends at the length limit of the text.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from light_tts.bench.machine import describe_machine
from light_tts.engine import TTSEngine
from light_tts.settings import AcousticSettings, LLMSettings, ModelSettings, Settings
from light_tts.types import SynthesisRequest

# About 5 s of random speech: one family practically never stops before 20 tokens per text id, the other stops soon
# after the minimum of 2 per id.
SHORT_TEXT = "The train leaves at nine."
LONG_TEXT = "The train to the city leaves at nine in the morning, and the next one leaves at a quarter past ten. " * 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--voice")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--mode", choices=["graphs", "eager"], default="graphs", help="CUDA graphs of the language model"
    )
    parser.add_argument("--text", choices=["short", "long"], default="short")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("-o", "--output")
    arguments = parser.parse_args()
    arguments.text = SHORT_TEXT if arguments.text == "short" else LONG_TEXT

    start_s = time.perf_counter()
    settings = Settings(
        model=ModelSettings(model_dir=arguments.model_dir, device=arguments.device),
        llm=LLMSettings(disable_cudagraph=arguments.mode == "eager"),
        acoustic=AcousticSettings(max_batch=32),
    )
    engine = TTSEngine.load(settings)
    report: dict[str, Any] = {
        "command": " ".join(sys.argv),
        "machine": describe_machine(),
        "load_s": round(time.perf_counter() - start_s, 2),
        "dtypes": engine.health()["dtypes"],
        "runs": [],
    }
    print("load_s", report["load_s"], report["dtypes"])
    with engine:
        engine.warm_up()
        _crowd(engine, arguments, 1, True, seed=0)
        for num_streams in arguments.streams:
            for stream in (True, False):
                for repeat in range(arguments.repeats if num_streams == 1 else 1):
                    run = _crowd(engine, arguments, num_streams, stream, seed=100 * repeat)
                    print(json.dumps(run))
                    report["runs"].append(run)
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(report, indent=1) + "\n")


def _crowd(engine: TTSEngine, arguments: argparse.Namespace, count: int, stream: bool, seed: int) -> dict[str, Any]:
    results: list[Any] = [None] * count

    def speak(index: int) -> None:
        request = SynthesisRequest(arguments.text, voice=arguments.voice, stream=stream, seed=seed + index)
        with engine.submit(request) as audio:
            for _ in audio:
                pass
        results[index] = audio.stats

    start_s = time.perf_counter()
    threads = [threading.Thread(target=speak, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall_s = time.perf_counter() - start_s
    first_ms = [stats.first_chunk_ms for stats in results]
    audio_s = sum(stats.audio_s for stats in results)
    return {
        "streams": count,
        "stream": stream,
        "first_chunk_ms_p50": round(float(np.median(first_ms)), 1),
        "first_chunk_ms_max": round(float(np.max(first_ms)), 1),
        "audio_s": round(audio_s, 2),
        "wall_s": round(wall_s, 3),
        "audio_s_per_s": round(audio_s / wall_s, 2),
        "speech_tokens": sum(stats.speech_tokens for stats in results),
    }


if __name__ == "__main__":
    main()
