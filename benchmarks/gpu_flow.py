"""Flow calls of full-size checkpoints by size: eager and as CUDA graphs, kernels per evaluation, audio per second.

    python benchmarks/gpu_flow.py -o benchmarks/results/gpu-flow.json

Random weights, made in memory. A call is ten Euler steps with guidance, for sequences (two rows each: guidance)
of new frames after kept ones. `call_ms` is host and device together, with the rows packed and sent; `device_ms` the
replay alone. "Audio seconds" counts every new frame.
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

from light_tts.acoustic.flow_batch import FlowRow
from light_tts.acoustic.flow_graphs import PagedRunner
from light_tts.bench.machine import describe_machine
from light_tts.kernels.flow_kernels import triton_kernels
from light_tts.kernels.overlapping import can_overlap
from light_tts.models.family import families
from light_tts.models.manifests import published_shapes
from light_tts.models.model_config import read_model_config
from light_tts.models.nets.flow_net import FlowNet
from light_tts.models.random_weights import random_state
from light_tts.models.yaml_config import parse_config
from light_tts.types import MEL_BINS

STEPS = 10
FRAMES_PER_S = 50
# (sequences, new frames, kept frames). The network sees two rows for each sequence.
HOPS = [
    (1, 50, 200),
    (1, 50, 400),
    (1, 100, 200),
    (1, 200, 200),
    (4, 50, 200),
    (16, 50, 200),
    (32, 50, 200),
    (32, 100, 200),
]
WHOLE = [(1, 50, 0), (1, 200, 0), (1, 400, 0), (1, 650, 0), (4, 200, 0), (8, 100, 0), (8, 200, 0), (16, 200, 0)]
WHOLE += [(32, 100, 0), (32, 200, 0), (64, 100, 0)]
EAGER = {(1, 50, 200), (32, 100, 200)}


def build(family_name: str) -> FlowNet:
    family = next(family for family in families() if family.name == family_name)
    text = resources.files("light_tts.models.manifests").joinpath(family.config_filename).read_text(encoding="utf-8")
    config = read_model_config(parse_config(text), family)
    state = random_state(published_shapes(family.name, "flow"))
    return family.build_flow(config.flow, state, torch.bfloat16, torch.device("cuda"))


def rows_of(net: FlowNet, runner: PagedRunner, count: int, frames: int, kept: int) -> list[FlowRow]:
    generator = torch.Generator().manual_seed(count)
    states = runner.pool.allocate(kept // 2)
    assert states is not None, "too few pages for this benchmark"
    speaker = torch.randn(MEL_BINS, generator=generator).cuda()
    return [
        FlowRow(
            tokens=torch.randint(0, net.vocabulary, (frames // 2 + net.lookahead_tokens,), generator=generator),
            num_tokens=frames // 2,
            first_token=kept // 2,
            prompt_mel=torch.randn(kept + 30, MEL_BINS, generator=generator) - 5.0,
            speaker=speaker,
            guidance=0.7,
            past=(states,) if kept else (),
        )
        for _ in range(count)
    ]


def device_ms(call: Any, repeats: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    torch.cuda.synchronize()
    return round(begin.elapsed_time(end) / repeats, 3)


def measure(net: FlowNet, runner: PagedRunner, case: tuple[int, int, int]) -> dict[str, Any]:
    count, frames, kept = case
    rows = rows_of(net, runner, count, frames, kept)
    chunks = -(-frames // net.chunk_frames)
    size = runner.size_for(count, chunks, kept // net.chunk_frames)
    call = runner.new_call(size)
    result: dict[str, Any] = {"sequences": count, "frames": frames, "kept_frames": kept}
    if case in EAGER:
        call.run(rows, steps=STEPS, is_chunked=True)
        result["eager_ms"] = median_ms(lambda: call.run(rows, steps=STEPS, is_chunked=True), 2)
    start_s = time.perf_counter()
    call.record(runner._memory, runner._stream)
    torch.cuda.synchronize()
    result["record_ms"] = round((time.perf_counter() - start_s) * 1000.0)
    mel = call.run(rows, steps=STEPS, is_chunked=True)
    result["is_finite"] = bool(mel.isfinite().all())
    once_ms = median_ms(lambda: call.run(rows, steps=STEPS, is_chunked=True), 3)
    repeats = max(3, min(20, int(600.0 / once_ms)))
    result["call_ms"] = median_ms(lambda: call.run(rows, steps=STEPS, is_chunked=True), repeats)
    result["device_ms"] = device_ms(lambda: call.replay(STEPS), repeats)
    result["fill_ms"] = median_ms(lambda: call._inputs.fill(rows, is_chunked=True), 5)
    result["audio_s_per_s"] = round(count * frames / FRAMES_PER_S / (result["call_ms"] / 1000.0), 1)
    return result


def kernels(net: FlowNet, runner: PagedRunner, case: tuple[int, int, int]) -> dict[str, Any]:
    """Kernels of one evaluation, and where the time of a call goes."""
    count, frames, kept = case
    rows = rows_of(net, runner, count, frames, kept)
    chunks = -(-frames // net.chunk_frames)
    counts, tables = [], []
    call = runner.new_call(runner.size_for(count, chunks, kept // net.chunk_frames))
    for steps in (1, 3):
        call.run(rows, steps=steps, is_chunked=True)
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call.run(rows, steps=steps, is_chunked=True)
            torch.cuda.synchronize()
        events = [event for event in profile.key_averages() if event.self_device_time_total > 0]
        counts.append(sum(event.count for event in events))
        tables.append(events)
    top = sorted(tables[1], key=lambda event: -event.self_device_time_total)[:20]
    return {
        "sequences": count, "frames": frames, "kept_frames": kept,
        "per_evaluation": (counts[1] - counts[0]) / 2,
        "outside_evaluations": counts[0] - (counts[1] - counts[0]) / 2,
        "busy_us_of_3_steps": round(sum(event.self_device_time_total for event in tables[1])),
        "top": [
            {"name": event.key[:90], "count": event.count, "us": round(event.self_device_time_total, 1),
             "each_us": round(event.self_device_time_total / event.count, 2)}
            for event in top
        ],
    }  # fmt: skip


def show(family: str, report: dict[str, Any]) -> None:
    print(f"\n{family}: built in {report['build_s']} s")
    print("sequences frames  kept |  call ms device ms  fill ms  eager ms | audio s/s  finite")
    for case in report["calls"]:
        print(
            f"{case['sequences']:9} {case['frames']:6} {case['kept_frames']:5} | {case['call_ms']:8.2f} "
            f"{case['device_ms']:9.2f} {case['fill_ms']:8.2f} {case.get('eager_ms', float('nan')):9.1f} | "
            f"{case['audio_s_per_s']:9.1f}  {case['is_finite']}"
        )
    for table in report["kernels"]:
        print(
            f"{table['sequences']} x {table['frames']} after {table['kept_frames']}: {table['per_evaluation']} "
            f"kernels per evaluation, {table['outside_evaluations']} besides; three steps keep the device busy "
            f"{table['busy_us_of_3_steps']} us"
        )
        for row in table["top"]:
            print(f"  {row['us']:9.1f} us {row['count']:6} x {row['each_us']:7.2f}  {row['name']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=[family.name for family in families()])
    parser.add_argument("--hops-only", action="store_true", help="leave out the calls without kept frames")
    parser.add_argument(
        "--unfused", action="store_true", help="the networks as they are, with the attention kernel only"
    )
    parser.add_argument("--in-order", action="store_true", help="no kernel begins before the one before has ended")
    parser.add_argument("-o", "--output")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"command": " ".join(sys.argv), "machine": describe_machine(), "families": {}}
    torch.backends.cuda.enable_cudnn_sdp(False)
    with torch.inference_mode():
        for name in arguments.families:
            start_s = time.perf_counter()
            net = build(name)
            runner = PagedRunner(
                net,
                cache_bytes=3 << 30,
                steps=STEPS,
                kernels=triton_kernels(overlaps=not arguments.in_order and can_overlap(net.device)),
                most_graphs=8,
                fuses=not arguments.unfused,
            )
            for level in (runner.pool.tokens, runner.pool.frames, runner.pool.estimator):
                level.keys_values.normal_()
            torch.cuda.synchronize()
            result: dict[str, Any] = {"build_s": round(time.perf_counter() - start_s, 1), "calls": [], "kernels": []}
            report["families"][name] = result
            for case in HOPS if arguments.hops_only else HOPS + WHOLE:
                result["calls"].append(measure(net, runner, case))
                if arguments.output:
                    Path(arguments.output).write_text(json.dumps(report, indent=1) + "\n")
            for case in ((1, 50, 200), (64, 100, 0)):
                result["kernels"].append(kernels(net, runner, case))
            show(name, result)
            del net, runner
            torch.cuda.empty_cache()
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
