"""What batching, caching and the chunk grid are worth on this machine, with the built-in model, in one process.

    python benchmarks/concurrency.py -o benchmarks/results/concurrency.json

streams      8 streams at once, against one request after the other: with the same caches, and in the published
             manner, which computes prompt and earlier frames again for every chunk (caches off, one sequence, one hop
             per call).
warm_voice   time to first audio of a voice's second request, prompt cache on and off.
chunk_cost   CPU seconds of each chunk over one long segment (attention sees all of it) and over ordinary segments.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from light_tts.acoustic.flow import FlowDecoder, FlowHop  # noqa: E402
from light_tts.acoustic.vocoder import Vocoder, VocoderJob  # noqa: E402
from light_tts.assets import builtin_model_dir  # noqa: E402
from light_tts.bench.machine import describe_machine  # noqa: E402
from light_tts.engine import TTSEngine  # noqa: E402
from light_tts.settings import AcousticSettings, LLMSettings, Settings  # noqa: E402
from light_tts.types import TOKEN_RATE_HZ, FlowPrompt, ReferenceAudio, SynthesisRequest  # noqa: E402

TEXTS = (
    "The train leaves at nine from platform four.",
    "Your order is on its way and will arrive tomorrow.",
    "今天天气真不错，我们一起去公园散步吧。",
    "Please hold the line, somebody will be with you.",
    "您好，欢迎使用语音合成服务，请问有什么可以帮您。",
    "The meeting starts at ten in the main hall.",
    "Thank you for calling, have a nice day.",
    "明天上午九点，我们在火车站门口见面。",
)
NOTHING_KEPT = {"prompt_cache_mb": 0, "stream_cache_mb": 0}
ONE_SEQUENCE = LLMSettings(max_running=1)
PATHS = {
    "published_manner_one_by_one": Settings(
        llm=ONE_SEQUENCE,
        acoustic=AcousticSettings(max_batch=1, **NOTHING_KEPT),  # type: ignore[arg-type]
    ),
    "one_by_one": Settings(llm=ONE_SEQUENCE, acoustic=AcousticSettings(max_batch=1)),
    "together": Settings(),
}


def measure_streams(repeats: int) -> dict[str, Any]:
    """Audio seconds per second of the three ways, in turns, best of `repeats` (others may use the machine)."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in PATHS}
    engines = {name: TTSEngine.load(settings) for name, settings in PATHS.items()}
    for engine in engines.values():
        engine.warm_up()
    for repeat in range(repeats + 1):
        for name, engine in engines.items():
            start_s, cpu_s = time.perf_counter(), time.process_time()
            stats = _together(engine) if name == "together" else [_speak(engine, k) for k in range(len(TEXTS))]
            wall_s, cpu_s = time.perf_counter() - start_s, time.process_time() - cpu_s
            audio_s = sum(s.audio_s for s in stats)
            if repeat:  # the first round fills the caches
                runs[name].append(
                    {
                        "audio_s": round(audio_s, 2),
                        "wall_s": round(wall_s, 3),
                        "cpu_s": round(cpu_s, 3),
                        "audio_s_per_s": round(audio_s / wall_s, 2),
                        "first_chunk_ms": [round(s.first_chunk_ms or 0) for s in stats],
                    }
                )
    for engine in engines.values():
        engine.close()
    best = {name: max(run["audio_s_per_s"] for run in of_path) for name, of_path in runs.items()}
    return {
        "audio_s_per_s": best,
        "ratio_to_published_manner": round(best["together"] / best["published_manner_one_by_one"], 2),
        "ratio_to_one_by_one": round(best["together"] / best["one_by_one"], 2),
        "runs": runs,
    }


def _speak(engine: TTSEngine, number: int, **fields: Any) -> Any:
    with engine.submit(SynthesisRequest(TEXTS[number % len(TEXTS)], seed=number, **fields)) as audio:
        for _ in audio:
            pass
    return audio.stats


def _together(engine: TTSEngine) -> list[Any]:
    stats: list[Any] = [None] * len(TEXTS)

    def speak(number: int) -> None:
        stats[number] = _speak(engine, number)

    threads = [threading.Thread(target=speak, args=(number,)) for number in range(len(TEXTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return stats


def measure_warm_voice(repeats: int) -> dict[str, Any]:
    """First audio of requests after the first one of a voice, by prompt; cache on and off in turns."""
    directory = Path(builtin_model_dir())
    prompts = json.loads((directory / "prompts" / "prompts.json").read_text())
    kept_mb = AcousticSettings().prompt_cache_mb
    engines = {
        key: TTSEngine.load(Settings(acoustic=AcousticSettings(prompt_cache_mb=cache_mb)))
        for key, cache_mb in (("with_cache_ms", kept_mb), ("without_cache_ms", 0))
    }
    result: dict[str, Any] = {}
    for name, prompt in prompts.items():
        voice = ReferenceAudio((directory / prompt["file"]).read_bytes(), prompt["text"])
        times: dict[str, Any] = {key: [] for key in engines}
        for repeat in range(repeats + 1):
            for key, engine in engines.items():
                first_ms = _speak(engine, 2 if prompt["language"] == "zh" else 0, voice=voice).first_chunk_ms
                if repeat:  # the voice's first request fills the caches
                    times[key].append(round(first_ms))
        times["sooner"] = round(min(times["without_cache_ms"]) / min(times["with_cache_ms"]), 2)
        result[name] = times
    for engine in engines.values():
        engine.close()
    return result


def measure_chunk_cost(seconds: int, hop_tokens: int = 50) -> dict[str, Any]:
    """Seconds of every hop over one segment, and of the hops of ordinary segments that add up to as much."""
    with TTSEngine.load(Settings(acoustic=AcousticSettings(stream_cache_mb=8192))) as engine:
        engine.warm_up()
        flow, vocoder = engine._decoder.flow, engine._decoder.vocoder
        prompt = _prompt(flow)
        one = _hop_costs(flow, vocoder, prompt, [seconds * TOKEN_RATE_HZ], hop_tokens)
        per_segment = 12 * TOKEN_RATE_HZ  # about 80 text tokens, where the frontend cuts
        several = _hop_costs(flow, vocoder, prompt, [per_segment] * (seconds // 12), hop_tokens)
        again = FlowDecoder(flow.net, prompt_cache_bytes=0, stream_cache_bytes=0)
        recomputed = _hop_costs(again, vocoder, prompt, [seconds * TOKEN_RATE_HZ // 4], hop_tokens)
    return {
        "hop_tokens": hop_tokens,
        "one_segment": one,
        "in_segments_of_12_s": several,
        f"recomputed_first_{seconds // 4}_s": recomputed,
        "last_quarter_to_first_quarter": {name: _growth(costs) for name, costs in (("one", one), ("cut", several))},
    }


def _prompt(flow: FlowDecoder) -> FlowPrompt:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, flow.net.vocabulary, (103,), generator=generator)
    return FlowPrompt("bench", tokens, torch.randn(206, 80, generator=generator) - 5, torch.randn(192))


def _hop_costs(
    flow: FlowDecoder, vocoder: Vocoder, prompt: FlowPrompt, segments: list[int], hop_tokens: int
) -> list[dict[str, float]]:
    costs = []
    lookahead = flow.net.lookahead_tokens
    with torch.inference_mode():
        for segment in segments:
            generator = torch.Generator().manual_seed(segment)
            tokens = torch.randint(0, flow.net.vocabulary, (segment + hop_tokens,), generator=generator)
            stream, voice = flow.open(prompt), vocoder.open(0)
            first = -prompt.tokens.shape[0] % flow.net.chunk_tokens  # to the grid, not timed: another size
            flow.decode([FlowHop(stream, tokens[: first + lookahead], 0, is_final=False)])
            for offset in range(first, segment, hop_tokens):
                start_s = time.thread_time()
                [mel] = flow.decode([FlowHop(stream, tokens[: offset + hop_tokens + lookahead], offset, False)])
                middle_s = time.thread_time()
                vocoder.decode([VocoderJob(voice, (mel,), False)])
                end_s = time.thread_time()
                costs.append(
                    {
                        "at_s": round(offset / TOKEN_RATE_HZ, 2),
                        "flow_cpu_ms": round(1000 * (middle_s - start_s), 1),
                        "vocoder_cpu_ms": round(1000 * (end_s - middle_s), 1),
                    }
                )
            stream.close()
            voice.close()
    return costs


def _growth(costs: list[dict[str, float]]) -> dict[str, float]:
    quarter = max(1, len(costs) // 4)
    return {
        key: round(
            statistics.median(c[key] for c in costs[-quarter:]) / statistics.median(c[key] for c in costs[:quarter]), 2
        )
        for key in ("flow_cpu_ms", "vocoder_cpu_ms")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=60, help="of speech for the cost of chunks")
    parser.add_argument("--only", choices=["streams", "warm_voice", "chunk_cost"])
    parser.add_argument("-o", "--output")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"command": " ".join(sys.argv), "machine": describe_machine()}
    parts = {
        "streams": lambda: measure_streams(arguments.repeats),
        "warm_voice": lambda: measure_warm_voice(arguments.repeats),
        "chunk_cost": lambda: measure_chunk_cost(arguments.seconds),
    }
    for name, measure in parts.items():
        if arguments.only in (None, name):
            report[name] = measure()
            print(name, json.dumps({key: v for key, v in report[name].items() if not isinstance(v, list)}), flush=True)
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
