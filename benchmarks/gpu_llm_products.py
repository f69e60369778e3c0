"""The fused products of a decoding step alone, over ways to cut them: microseconds and bandwidth of each matrix.

    python benchmarks/gpu_llm_products.py --batches 1 16

Each way is timed over the matrices of all layers in turn, so that no weight is in the cache. A way takes about a second
to compile: a batch takes one to two minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from gpu_llm import random_lm, replay_ms

from light_tts.bench.machine import describe_machine
from light_tts.kernels import small_linear_triton as small
from light_tts.models.nets.speech_lm import SpeechLM

MATRICES = ("qkv", "output", "gate_up", "down", "head")
CHOSEN = small.one_row_tiling, small.rows_tiling


def multiply_all(lm: SpeechLM, linear: small.SmallLinear, name: str, hidden: torch.Tensor, inner: torch.Tensor) -> None:
    """The product `name` of every layer."""
    for layer in lm.body.layers:
        if name == "qkv":
            linear.norm_linear(hidden, layer.attention_norm, 1e-6, layer.qkv.weight, layer.qkv.bias)
        elif name == "output":
            linear.linear_add(hidden, hidden, layer.output.weight)
        elif name == "gate_up":
            linear.norm_gated(hidden, layer.mlp_norm, 1e-6, layer.gate_up.weight)
        elif name == "down":
            linear.linear_add(hidden, inner, layer.down.weight)
        else:
            linear.norm_linear(hidden, lm.body.norm, 1e-6, lm.head.t(), lm.head_bias)


def tilings(name: str, batch: int, num_inputs: int) -> list[small.Tiling]:
    """Ways to cut a product."""
    if batch == 1:
        inputs = 1 << (num_inputs - 1).bit_length()
        return [
            small.Tiling(outputs, inputs, 1, warps, 1)
            for outputs in (1, 2, 4, 8, 16)
            for warps in (2, 4, 8)
            if 8 <= outputs * inputs / (32 * warps) <= 128
        ]
    return [
        small.Tiling(outputs, inputs, splits, 2 if outputs == 16 else 4, 4)
        for outputs in (16, 32, 64)
        for inputs in (64, 128)
        for splits in ((1, 2, 4, 8) if name in ("output", "down") else (1,))
    ]


def microseconds(call: Callable[[], None], tiling: small.Tiling | None) -> float:
    """Of one call, cut so, or as the package does."""
    small.one_row_tiling, small.rows_tiling = CHOSEN
    if tiling is not None:
        small.one_row_tiling = small.rows_tiling = lambda *_, **__: tiling
    try:
        call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return replay_ms(graph.replay, 10) * 1e3
    except Exception as error:
        print(f"{tiling}: {type(error).__name__}: {error}"[:200], file=sys.stderr)
        return math.inf
    finally:
        small.one_row_tiling, small.rows_tiling = CHOSEN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--matrices", choices=MATRICES, nargs="+", default=MATRICES)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"command": " ".join(sys.argv), "machine": describe_machine()}
    with torch.inference_mode():
        lm = random_lm("cosyvoice2", torch.bfloat16, torch.device("cuda"))
        linear = small.SmallLinear(small.SplitWorkspace(lm.device))
        for batch in arguments.batches:
            hidden = torch.randn(batch, lm.config.hidden_size, device=lm.device, dtype=lm.dtype)
            inner = torch.randn(batch, lm.config.intermediate_size, device=lm.device, dtype=lm.dtype)
            for name in arguments.matrices:
                weight = lm.head.t() if name == "head" else getattr(lm.body.layers[0], name).weight
                call = partial(multiply_all, lm, linear, name, hidden, inner)
                ways = {"chosen": None} | {str(way): way for way in tilings(name, batch, weight.shape[0])}
                times_us = {key: microseconds(call, way) / lm.config.num_layers for key, way in ways.items()}
                best = dict(sorted(times_us.items(), key=lambda item: item[1])[:4])
                report[f"{name} {batch}"] = {"chosen_us": times_us["chosen"], "best_us": best}
                bandwidth = weight.numel() * weight.element_size() / times_us["chosen"] / 1e3
                print(f"{name:8s} B={batch:3d} chosen {times_us['chosen']:6.2f} us, {bandwidth:5.0f} GB/s", flush=True)
                for key, time_us in best.items():
                    print(f"    {time_us:6.2f} us {key}", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
