"""Cost of each stage of a full-size checkpoint on its own: decode step, first and later flow hops, vocoder.

    python benchmarks/gpu_stages.py --model-dir /tmp/random -o benchmarks/results/gpu-stages.json

Times are medians in milliseconds, host and device together, with the device synchronised before and after each call.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from light_tts.acoustic.flow import FlowDecoder, FlowHop
from light_tts.acoustic.flow_graphs import RunnerSearch
from light_tts.acoustic.vocoder import Vocoder, VocoderJob, WaveDecoder
from light_tts.acoustic.vocoder_graph import VocoderGraphs
from light_tts.bench.machine import describe_machine
from light_tts.llm.engine import SpeechTokenEngine
from light_tts.models.model_dir import ModelDirectory
from light_tts.models.nets.hift_packed import triton_kernels
from light_tts.placement import place
from light_tts.settings import LLMSettings, ModelSettings
from light_tts.types import FlowPrompt, LLMPrompt

PROMPT_TOKENS = 78  # 3.1 s, aligned to a first hop of 22


class Quiet:
    """A token sink that drops everything."""

    def put(self, tokens: Any) -> None: ...

    def end(self, reason: Any) -> None: ...

    def fail(self, error: Exception) -> None:
        raise error


def median_ms(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        _sync()
        start_s = time.perf_counter()
        call()
        _sync()
        times.append((time.perf_counter() - start_s) * 1000.0)
    return round(float(np.median(times)), 2)


def _sync() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_llm(
    directory: ModelDirectory, batches: list[int], device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    lm = directory.load_llm(dtype=dtype, device=device)
    result = {}
    for name, disable_cudagraph in (("", False), ("_without_graphs", True)):
        start_s = time.perf_counter()
        settings = LLMSettings(max_running=512, graph_max_batch_size=256, disable_cudagraph=disable_cudagraph)
        engine = SpeechTokenEngine(lm, sampling=directory.sampling, settings=settings, mix_ratio=directory.mix_ratio)
        engine.capture()
        _sync()
        if not disable_cudagraph:
            result["record_graphs"] = round((time.perf_counter() - start_s) * 1000.0)
        for batch in batches:
            result[f"decode_step{name}_batch_{batch}"] = _decode_step_ms(engine, batch)
        del engine
    return result


def _decode_step_ms(engine: SpeechTokenEngine, batch: int) -> float:
    lm = engine._lm
    tags = (lm.ids.end_of_prompt,) if lm.ids.needs_end_of_prompt else ()
    prompt = LLMPrompt((*tags, *((5,) * 15)), (7,) * 40, (9,) * PROMPT_TOKENS, 40)
    runs = [engine.submit(prompt, Quiet(), seed=seed) for seed in range(batch)]
    while engine.stats().running < batch:
        engine.step()
    for _ in range(10):
        engine.step()
    step_ms = median_ms(engine.step, 30)
    assert engine.stats().running == batch, "a run ended while it was measured"
    for run in runs:
        run.abort()
    engine.step()
    return step_ms


def measure_flow(
    directory: ModelDirectory, batches: list[int], device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    net = directory.load_flow(dtype=dtype, device=device)
    prompt = FlowPrompt(
        "p", torch.randint(0, 6561, (PROMPT_TOKENS,)), torch.randn(2 * PROMPT_TOKENS, 80) - 5, torch.randn(192)
    )
    tokens = torch.randint(0, 6561, (300,))
    runner = RunnerSearch(net, cache_bytes=8 << 30, steps=10, most_graphs=80).result()
    decoder = FlowDecoder(net, prompt_cache_bytes=8 << 30, stream_cache_bytes=0, runner=runner)
    start_s = time.perf_counter()
    decoder.warm_up(max(batches))
    result = {"record_flow": round((time.perf_counter() - start_s) * 1000.0)}
    for batch in batches:
        calls = {
            "first_hop_22_tokens": partial(_hop, decoder, prompt, tokens[:25], 0, batch),
            "hop_22_to_122_tokens": partial(_hop, decoder, prompt, tokens[:125], 22, batch),
            "offline_150_tokens": partial(_offline, decoder, prompt, tokens[:150], batch),
        }
        for name, call in calls.items():
            for _ in range(3):
                call()
            result[f"{name}_batch_{batch}"] = median_ms(call, 5)
    return result


def _hop(decoder: FlowDecoder, prompt: FlowPrompt, tokens: torch.Tensor, offset: int, batch: int) -> None:
    streams = [decoder.open(prompt) for _ in range(batch)]
    decoder.decode([FlowHop(stream, tokens, offset, is_final=False) for stream in streams])
    for stream in streams:
        stream.close()


def _offline(decoder: FlowDecoder, prompt: FlowPrompt, tokens: torch.Tensor, batch: int) -> object:
    streams = [decoder.open(prompt, stream=False) for _ in range(batch)]
    return decoder.decode([FlowHop(stream, tokens, 0, is_final=True, full_mask=True) for stream in streams])


def measure_vocoder(
    directory: ModelDirectory, batches: list[int], device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    net = directory.load_vocoder(dtype=dtype, device=device)
    result = _vocoder_ms(Vocoder(net), batches, device, "")
    if device.type == "cuda":
        for kind in (torch.float32, torch.float16, torch.bfloat16):
            start_s = time.perf_counter()
            recorded = VocoderGraphs(net, triton_kernels(), dtype=kind)
            recorded.capture()
            name = str(kind).removeprefix("torch.")
            result[f"record_graphs_{name}"] = round((time.perf_counter() - start_s) * 1000.0)
            result |= _vocoder_ms(recorded, [*batches, 64], device, f"recorded_{name}_")
            del recorded
    return result


def _vocoder_ms(vocoder: WaveDecoder, batches: list[int], device: torch.device, prefix: str) -> dict[str, float]:
    result = {}
    for batch in batches:
        for frames in (50, 300):
            mels = [torch.randn(80, frames, device=device) - 5 for _ in range(batch)]

            def speak(pieces: list[torch.Tensor] = mels) -> object:
                return vocoder.decode(
                    [VocoderJob(vocoder.open(seed), (mel,), is_final=True) for seed, mel in enumerate(pieces)]
                )

            speak()
            result[f"{prefix}{frames}_frames_batch_{batch}"] = median_ms(speak, 9)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--stages", nargs="+", choices=["llm", "flow", "vocoder"], default=["llm", "flow", "vocoder"])
    parser.add_argument("-o", "--output")
    arguments = parser.parse_args()
    directory = ModelDirectory.open(arguments.model_dir)
    where = place(ModelSettings(device=arguments.device))
    stages = {
        "llm": partial(measure_llm, directory, [1, 8, 64, 256], where.device, where.llm_dtype),
        "flow": partial(measure_flow, directory, [1, 8, 32], where.device, where.flow_dtype),
        "vocoder": partial(measure_vocoder, directory, [1, 8, 32], where.device, where.vocoder_dtype),
    }
    report: dict[str, Any] = {
        "command": " ".join(sys.argv),
        "machine": describe_machine(),
        "dtypes": where.describe(),
    }
    with torch.inference_mode():
        report |= {f"{name}_ms": stages[name]() for name in arguments.stages}
    print(json.dumps({key: value for key, value in report.items() if key.endswith("_ms")}, indent=1))
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
