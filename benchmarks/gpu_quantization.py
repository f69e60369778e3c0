"""What each format of weights and KV cache costs and saves on a GPU, at the published size with random weights.

    python benchmarks/gpu_quantization.py -o benchmarks/results/gpu-quantization.json

decode    milliseconds per step of B sequences with contexts of about 300 rows: replayed without a host (gpu_ms), and in
          the engine's own loop (loop_ms)
bytes     of the body's matrices and of the KV cache, and what torch has allocated
products  microseconds of one product with each of a layer's matrices, recorded and replayed, beside torch's in bfloat16

Formats and batch sizes may be chosen; a first run compiles its kernels, which takes longer than measuring.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import gpu_llm  # noqa: E402

from light_tts.bench.machine import describe_machine  # noqa: E402
from light_tts.kernels.fp8_product import fp8_product, why_no_fp8_product  # noqa: E402
from light_tts.kernels.quantized_weights import WeightKind, quantize  # noqa: E402
from light_tts.llm import model_runner  # noqa: E402
from light_tts.llm.cuda_graph import GraphRecorder  # noqa: E402
from light_tts.llm.padded_step import PaddedStep  # noqa: E402
from light_tts.llm.pending import PendingDraws  # noqa: E402
from light_tts.llm.quantization import matrix_maker  # noqa: E402
from light_tts.llm.step_inputs import StepViews  # noqa: E402
from light_tts.llm.weight_plan import WeightPlan  # noqa: E402

FORMS = {
    "bfloat16": ("none", "auto"),
    "int8": ("int8", "auto"),
    "int4": ("int4", "auto"),
    "fp8": ("fp8", "auto"),
    "int8 KV": ("none", "int8"),
    "int8, int8 KV": ("int8", "int8"),
}
BATCHES = (1, 16, 64, 256)
MATRICES = {"qkv": (896, 1152), "output": (896, 896), "gate_up": (896, 9728), "down": (4864, 896)}
PRODUCT_ROWS = (1, 2, 4, 16, 32, 64, 128, 256, 1024)


class Recorder(GraphRecorder):
    """Records decoding steps of the measured sizes; computes others as they are."""

    batches: tuple[int, ...] = BATCHES
    last: GraphRecorder | None = None

    def __init__(self, versions: list[PaddedStep], warm_up_iterations: int = 1) -> None:
        super().__init__(versions, warm_up_iterations)
        self._unrecorded = versions[-1]
        Recorder.last = self

    def __call__(self, views: StepViews) -> Callable[[], None]:
        if views.selected is None and len(views.rows.rows) in self.batches:
            return super().__call__(views)
        return partial(self._unrecorded.compute, views)


def measure_form(family: str, weights: Any, kv_cache_dtype: str, batches: tuple[int, ...]) -> dict[str, Any]:
    device = torch.device("cuda")
    gc.collect()
    torch.cuda.empty_cache()
    start_s = time.perf_counter()
    make = matrix_maker(WeightPlan(weights), dtype=torch.bfloat16, device=device)
    lm = gpu_llm.random_lm(family, torch.bfloat16, device, make)
    gc.collect()
    wait = PendingDraws.wait
    bench = gpu_llm.Bench(lm, kv_cache_dtype=kv_cache_dtype)
    memory = bench.engine.memory
    result: dict[str, Any] = {
        "matrix_bytes": memory.weights.num_bytes,
        "kv_bytes": memory.kv_bytes,
        "allocated_bytes": torch.cuda.memory_allocated(),
        "decode": {str(batch): bench.decode(batch) for batch in batches},
    }
    PendingDraws.wait = wait  # type: ignore[method-assign]  # what Bench put there would keep its engine
    result["rows_by_kernels"] = Recorder.last.chosen if Recorder.last is not None else {}
    result["seconds"] = round(time.perf_counter() - start_s, 1)
    return result


def measure_products(rows_list: tuple[int, ...]) -> dict[str, dict[str, dict[str, float]]]:
    """format -> matrix -> rows -> microseconds."""
    from light_tts.kernels.fp8_rows_triton import round_rows
    from light_tts.kernels.quantized_stream_triton import stream_product
    from light_tts.kernels.quantized_tiles_triton import TiledProduct

    found: dict[str, dict[str, dict[str, float]]] = {}

    def note(form: str, matrix: str, num_rows: int, call: Callable[[], object]) -> None:
        found.setdefault(form, {}).setdefault(matrix, {})[str(num_rows)] = round(_recorded_us(call), 2)

    kinds: tuple[WeightKind, ...] = ("int8", "int4", "fp8")
    has_fp8 = why_no_fp8_product(torch.device("cuda", torch.cuda.current_device())) is None
    for matrix, (inputs, outputs) in MATRICES.items():
        exact = torch.randn(outputs, inputs, device="cuda") / inputs**0.5
        plain = exact.bfloat16()
        quantized = {kind: quantize(exact, kind) for kind in kinds}
        tiled = {kind: TiledProduct(weights) for kind, weights in quantized.items()}
        for num_rows in rows_list:
            rows = torch.randn(num_rows, inputs, device="cuda").bfloat16()
            out = torch.empty(num_rows, outputs, device="cuda", dtype=torch.bfloat16)
            note("bfloat16", matrix, num_rows, partial(torch.nn.functional.linear, rows, plain))
            for kind, weights in quantized.items():
                note(f"{kind} tiles", matrix, num_rows, partial(tiled[kind], rows, None, out))
                if num_rows <= 4:
                    note(f"{kind} stream", matrix, num_rows, partial(stream_product, rows, weights, None, out))
            if has_fp8 and num_rows >= 16:
                call = partial(fp8_product, rows, quantized["fp8"], None, round_rows, in_place=False)
                note("fp8 of rounded rows", matrix, num_rows, call)
    return found


def _recorded_us(call: Callable[[], object], calls: int = 20, replays: int = 10) -> float:
    """One of `calls` calls in a recorded graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call()
        graph = torch.cuda.CUDAGraph()
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            kept: list[Tensor | object] = [call() for _ in range(calls)]
        graph.replay()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(replays):
            graph.replay()
        end.record()
        end.synchronize()
    del kept
    return begin.elapsed_time(end) * 1e3 / (calls * replays)


def main() -> None:
    arguments = _parse()
    Recorder.batches = tuple(arguments.batches)
    model_runner.GraphRecorder = Recorder  # type: ignore[misc]
    report: dict[str, Any] = {"command": " ".join(sys.argv), "machine": describe_machine(), "family": arguments.family}
    with torch.inference_mode():
        if arguments.products:
            report["products_us"] = measure_products(PRODUCT_ROWS)
            print(json.dumps(report["products_us"]), flush=True)
        report["forms"] = {}
        for name in arguments.forms:
            report["forms"][name] = measure_form(arguments.family, *FORMS[name], tuple(arguments.batches))
            print(name, json.dumps(report["forms"][name]), flush=True)
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(report, indent=1) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=["cosyvoice2", "cosyvoice3"], default="cosyvoice2")
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--products", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("-o", "--output")
    return parser.parse_args()


if __name__ == "__main__":
    main()
