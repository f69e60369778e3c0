"""The kernels of a decoding step alone, over ways to cut them: microseconds and bandwidth.

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
from light_tts.kernels import one_row_linear_triton as one_row
from light_tts.kernels import paged_decode_triton as decode
from light_tts.kernels import split_linear_triton as split
from light_tts.kernels.paged_decode import DecodePages
from light_tts.models.nets.speech_lm import SpeechLM

MATRICES = ("qkv", "output", "gate_up", "down", "head")
BEST = 4  # ways that are reported
TILINGS = "linear_tiling", "gated_tiling", "parts_tiling"
CHOSEN = one_row.one_row_tiling, *(getattr(split, name) for name in TILINGS)
Way = one_row.Tiling | split.Tiling


def multiply_all(lm: SpeechLM, name: str, hidden: torch.Tensor, inner: torch.Tensor) -> None:
    """The product `name` of every layer; of one row with what is around it."""
    alone, linear = one_row.OneRowLinear(), split.SplitLinear()
    is_one = len(hidden) == 1
    for layer in lm.body.layers:
        if name == "head":
            if is_one:
                alone.norm_linear(hidden, lm.body.norm, 1e-6, lm.head.t(), lm.head_bias)
            else:
                linear.linear(hidden.float(), lm.head.t(), lm.head_bias)
        elif name == "qkv" and is_one:
            alone.norm_linear(hidden, layer.attention_norm, 1e-6, layer.qkv.weight, layer.qkv.bias)
        elif name == "qkv":
            linear.linear(hidden, layer.qkv.weight, layer.qkv.bias)
        elif name == "gate_up" and is_one:
            alone.norm_gated(hidden, layer.mlp_norm, 1e-6, layer.gate_up.weight)
        elif name == "gate_up":
            linear.gated(hidden, layer.gate_up.weight)
        else:
            rows, matrix = (hidden, layer.output) if name == "output" else (inner, layer.down)
            if is_one:
                alone.linear_add(hidden, rows, matrix.weight)
            else:
                linear.parts(rows, matrix.weight)


def tilings(name: str, batch: int, num_inputs: int) -> list[Way]:
    """Ways to cut a product."""
    if batch == 1:
        inputs = 1 << (num_inputs - 1).bit_length()
        return [
            one_row.Tiling(outputs, inputs, warps)
            for outputs in (1, 2, 4, 8, 16)
            for warps in (2, 4, 8)
            if 8 <= outputs * inputs / (32 * warps) <= 128
        ]
    ways = [
        split.Tiling(outputs, inputs, splits, 4, stages, is_turned, False)
        for outputs in (16, 32, 64)
        for inputs in (64, 128)
        for stages in (3, 5)
        for splits in ((1, 2, 5, 10) if name in ("output", "down") else (1,))
        for is_turned in ((False, True) if outputs == 64 else (False,))
    ]
    if name in ("output", "down"):
        held = [(outputs, inputs) for outputs in (16, 32, 64) for inputs in (128, 256, 512, 1024)]
        ways += [split.Tiling(out, into, -(-num_inputs // into), 8, 1, False, True) for out, into in held]
    return ways


def attend_all(batch: int, past: int, num_layers: int = 24, block_tokens: int = 16) -> Callable[[], None]:
    """Attention of every layer, each over keys and values of its own."""
    device, dtype = torch.device("cuda"), torch.bfloat16
    width = past // block_tokens + 1
    rows = torch.randn(batch, 18, 64, device=device, dtype=dtype)
    caches = torch.randn(num_layers, batch * width * block_tokens, 256, device=device, dtype=dtype)
    table = torch.randperm(batch * width, device=device)
    pages = DecodePages(
        torch.full((batch,), past, device=device),
        table.view(batch, width)[:, -1] * block_tokens + past % block_tokens,
        table,
        torch.tensor([width], device=device),
    )
    rotation = torch.randn(batch, 32, 2, device=device)
    counters = torch.zeros(2 * batch, dtype=torch.int32, device=device)
    attention = decode.DecodeAttention(counters, reads_ahead=True)

    def attend() -> None:
        for cache in caches:
            attention(rows[:, :14], rows[:, 14:], rotation, cache, pages, block_tokens)

    return attend


def sweep_attention(batch: int, past: int) -> dict[str, float]:
    """Microseconds of one layer, by parts and tile."""
    call, times_us = attend_all(batch, past), {}
    chosen = decode.cut_past
    times_us["chosen"] = microseconds(call, None) / 24
    for splits in (1, 2, 4, 8, 16, 32):
        for tile in (16, 32, 64):
            for is_ahead in (False, True):
                cut = decode.PastCut(splits, tile, is_ahead)
                decode.cut_past = lambda *_, cut=cut, **__: cut
                times_us[str(cut)] = microseconds(call, None) / 24
    decode.cut_past = chosen
    return times_us


def choose(choices: tuple[Callable[..., Way], ...]) -> None:
    """Let products be cut so."""
    one_row.one_row_tiling = choices[0]
    for name, choice in zip(TILINGS, choices[1:], strict=True):
        setattr(split, name, choice)


def microseconds(call: Callable[[], None], way: Way | None) -> float:
    """Of one call, cut so, or as the package does."""
    choose(CHOSEN if way is None else (lambda *_: way,) * len(CHOSEN))
    try:
        call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return replay_ms(graph.replay, 10) * 1e3
    except Exception as error:
        print(f"{way}: {type(error).__name__}: {error}"[:200], file=sys.stderr)
        return math.inf
    finally:
        choose(CHOSEN)


def print_best(name: str, times_us: dict[str, float], num_bytes: int) -> None:
    """What is chosen, and the best ways."""
    chosen_us = times_us["chosen"]
    print(f"{name:18s} chosen {chosen_us:6.2f} us, {num_bytes / chosen_us / 1e3:5.0f} GB/s", flush=True)
    for key, time_us in sorted(times_us.items(), key=lambda item: item[1])[:BEST]:
        print(f"    {time_us:6.2f} us {key}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--matrices", choices=MATRICES, nargs="*", default=MATRICES)
    parser.add_argument("--no-attention", action="store_true")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--past", type=int, default=300, help="tokens that attention looks back on")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"command": " ".join(sys.argv), "machine": describe_machine()}
    with torch.inference_mode():
        lm = random_lm("cosyvoice2", torch.bfloat16, torch.device("cuda"))
        for batch in arguments.batches:
            hidden = torch.randn(batch, lm.config.hidden_size, device=lm.device, dtype=lm.dtype)
            inner = torch.randn(batch, lm.config.intermediate_size, device=lm.device, dtype=lm.dtype)
            for name in arguments.matrices:
                weight = lm.head.t() if name == "head" else getattr(lm.body.layers[0], name).weight
                call = partial(multiply_all, lm, name, hidden, inner)
                ways = {"chosen": None} | {str(way): way for way in tilings(name, batch, weight.shape[0])}
                times_us = {key: microseconds(call, way) / lm.config.num_layers for key, way in ways.items()}
                num_bytes = weight.numel() * weight.element_size()
                report[f"{name} {batch}"] = times_us
                print_best(f"{name} B={batch}", times_us, num_bytes)
            if not arguments.no_attention:
                times_us = report[f"attention {batch}"] = sweep_attention(batch, arguments.past)
                print_best(f"attention B={batch}", times_us, batch * arguments.past * 512)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
