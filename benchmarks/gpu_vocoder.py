"""Vocoder calls of full-size checkpoints by rows and frames: plain, and as CUDA graphs in TF32, float16 and bfloat16.

    python benchmarks/gpu_vocoder.py -o benchmarks/results/gpu-vocoder.json

Random weights, made in memory. A call decodes one final piece of each of so many streams, samples on the host
included; times are medians. `float16_distance` is the relative distance of its samples from those in TF32.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpu_timing import median_ms

from light_tts.acoustic.vocoder import Vocoder, VocoderJob, WaveDecoder
from light_tts.acoustic.vocoder_graph import VocoderGraphs
from light_tts.bench.machine import describe_machine
from light_tts.models.family import families
from light_tts.models.manifests import published_shapes
from light_tts.models.model_config import read_model_config
from light_tts.models.nets.hift import HiftNet
from light_tts.models.nets.hift_packed import triton_kernels
from light_tts.models.random_weights import random_state
from light_tts.models.yaml_config import parse_config
from light_tts.types import MEL_BINS

FRAMES_PER_S = 50
CASES = ((1, 20), (1, 58), (1, 300), (8, 58), (8, 300), (32, 58), (64, 58), (16, 250))
PLAIN = frozenset({(1, 58), (1, 300), (8, 58), (32, 58)})


def build(family: Any) -> HiftNet:
    text = (resources.files("light_tts.models.manifests") / family.config_filename).read_text("utf-8")
    config = read_model_config(parse_config(text), family)
    state = random_state(published_shapes(family.name, "hift"))
    return family.build_vocoder(config.hift, state, torch.float32, torch.device("cuda"))


def speak(vocoder: WaveDecoder, mels: list[torch.Tensor]) -> list[torch.Tensor]:
    jobs = [VocoderJob(vocoder.open(seed), (mel,), is_final=True) for seed, mel in enumerate(mels)]
    return [samples.cpu() for samples in vocoder.decode(jobs)]


def measure(vocoder: WaveDecoder, cases: list[tuple[int, int]]) -> dict[str, Any]:
    result = {}
    for rows, frames in cases:
        generator = torch.Generator().manual_seed(rows)
        mels = [(torch.randn(MEL_BINS, frames, generator=generator) - 5.0).cuda() for _ in range(rows)]
        speak(vocoder, mels)
        speak(vocoder, mels)
        call_ms = median_ms(lambda mels=mels: speak(vocoder, mels), 9)
        per_s = rows * frames / FRAMES_PER_S / (call_ms / 1000.0)
        result[f"{rows}x{frames}"] = {"ms": call_ms, "audio_s_per_s": round(per_s)}
    return result


def top_kernels(vocoder: WaveDecoder, rows: int, frames: int) -> list[str]:
    mels = [torch.randn(MEL_BINS, frames).cuda() - 5.0 for _ in range(rows)]
    speak(vocoder, mels)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        speak(vocoder, mels)
        torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    count = sum(event.count for event in events if event.self_device_time_total)
    lines = [f"{rows}x{frames}: {count} kernels, {sum(e.self_device_time_total for e in events):.0f} us"]
    return lines + [f"{e.self_device_time_total:9.1f} us {e.count:5} x  {e.key[:80]}" for e in events[:10]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"command": " ".join(sys.argv), "machine": describe_machine()}
    with torch.inference_mode():
        for family in families():
            net = build(family)
            mels = [(torch.randn(MEL_BINS, 100) - 5.0).cuda() for _ in range(3)]
            part: dict[str, Any] = {"plain": measure(Vocoder(net), sorted(PLAIN))}
            reference = None
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                start_s = time.perf_counter()
                vocoder = VocoderGraphs(net, triton_kernels(), dtype=dtype)
                vocoder.capture()
                name = str(dtype).removeprefix("torch.")
                part[f"{name}_record_s"] = round(time.perf_counter() - start_s, 1)
                part[name] = measure(vocoder, list(CASES))
                spoken = torch.cat(speak(vocoder, mels))
                reference = spoken if reference is None else reference
                part[f"{name}_distance"] = round(float((spoken - reference).norm() / reference.norm()), 4)
                part[f"{name}_top"] = top_kernels(vocoder, 1, 58) + top_kernels(vocoder, 64, 58)
            report[family.name] = part
            print(json.dumps({family.name: part}, indent=1))
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
