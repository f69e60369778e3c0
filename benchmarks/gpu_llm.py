"""Speed of the language model alone at the published size, with random weights made on the GPU.

python benchmarks/gpu_llm.py --output benchmarks/results/gpu-llm.json

decode   milliseconds per step of B sequences with contexts of 250 to 350 rows: in the engine's own loop, replayed
         without a host (gpu_ms), and what the host does meanwhile (host_ms: the loop less its waiting)
prefill  milliseconds from B new prompts to their first ids
mixed    a step in which prompts join sequences that decode
kernels  of one recorded step, and those that take longest

With --host, on any machine: milliseconds of its own time that the engine's thread takes for a step of B sequences whose
replay does nothing, while they stay the same (steady_ms) and while some end at 80 to 160 codes and others take their
place (changing_ms). With the built-in model, whose size is no matter.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from light_tts.assets import builtin_model_dir
from light_tts.bench.machine import describe_machine
from light_tts.llm.cuda_graph import GraphRecorder
from light_tts.llm.engine import SpeechTokenEngine
from light_tts.llm.padded_step import PaddedStep, triton_kernels
from light_tts.llm.padded_steps import PaddedSteps
from light_tts.llm.pending import PendingDraws
from light_tts.llm.step_shape import StepShape
from light_tts.models.family import family_named
from light_tts.models.manifests import published_shapes
from light_tts.models.model_config import SamplingDefaults
from light_tts.models.model_dir import ModelDirectory
from light_tts.models.nets.matrix import MakeMatrix
from light_tts.models.nets.speech_lm import SpeechLM
from light_tts.models.random_weights import PUBLISHED_BACKBONE
from light_tts.settings import LLMSettings
from light_tts.types import LLMPrompt

BATCHES = (1, 4, 8, 16, 32, 64, 128, 256)
PROFILED = (1, 16, 64, 256)
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class Quiet:
    """A token sink that drops everything."""

    def put(self, tokens: Any) -> None: ...

    def end(self, reason: Any) -> None: ...

    def fail(self, error: Exception) -> None:
        raise error


def random_lm(
    family_name: str, dtype: torch.dtype, device: torch.device, make_matrix: MakeMatrix | None = None
) -> SpeechLM:
    """A network of the published size; its numbers are drawn where they will lie."""
    family, shapes = family_named(family_name), published_shapes(family_name, "llm")
    ids = family.speech_ids(shapes, num_codes=6561, end_of_prompt=151646)
    state = {}
    for key, shape in shapes.items():
        if key.endswith("lm_head.weight"):
            continue
        if len(shape) == 1:
            state[key] = torch.full(shape, 1.0 if "norm" in key else 0.0, device=device)
        else:
            scale = 1.0 if "embed" in key else 1.0 / math.sqrt(shape[1])
            state[key] = torch.randn(shape, device=device, dtype=torch.bfloat16) * scale
    return family.build_llm(PUBLISHED_BACKBONE, state, ids, dtype, device, make_matrix)


class Bench:
    """One engine, driven by hand."""

    def __init__(self, lm: SpeechLM, **settings: Any) -> None:
        values = {"max_running": 256, "graph_max_batch_size": 256, "max_total_tokens": 256 * 1024} | settings
        self.engine = SpeechTokenEngine(
            lm,
            sampling=SamplingDefaults(),
            settings=LLMSettings(prefix_cache=False, **values),
            mix_ratio=(5, 15),
        )
        self.lm = lm
        started_s = time.perf_counter()
        self.engine.capture()
        _sync()
        self.record_s = time.perf_counter() - started_s
        self.runs: list[Any] = []
        self.waited_s = 0.0
        self.profiles: dict[str, Any] = {}
        wait = PendingDraws.wait

        def timed_wait(draws: PendingDraws) -> Any:
            start_s = time.perf_counter()
            result = wait(draws)
            self.waited_s += time.perf_counter() - start_s
            return result

        PendingDraws.wait = timed_wait

    def submit(self, count: int, num_rows: int) -> None:
        """New runs whose prompts have `num_rows` rows; none ends by itself soon."""
        tags = (self.lm.ids.end_of_prompt,) if self.lm.ids.needs_end_of_prompt else ()
        num_speech = num_rows - 2 - 60 - len(tags)
        for _ in range(count):
            seed = len(self.runs)
            prompt = LLMPrompt((*tags, *((5,) * 20)), (seed % 1000,) * 40, (9,) * num_speech, 400)
            self.runs.append(self.engine.submit(prompt, Quiet(), seed=seed))

    def clear(self) -> None:
        for run in self.runs:
            run.abort()
        while self.engine.step():
            pass
        _sync()

    def decode(self, batch: int, num_steps: int = 50) -> dict[str, float]:
        self.submit(batch, 250)
        while self.engine.stats().running < batch:
            self.engine.step()
        for _ in range(20):
            self.engine.step()
        _sync()
        self.waited_s, start_s = 0.0, time.perf_counter()
        for _ in range(num_steps):
            self.engine.step()
        elapsed_s = time.perf_counter() - start_s
        assert self.engine.stats().running == batch, "a run ended while it was measured"
        result = {"loop_ms": elapsed_s / num_steps * 1e3, "host_ms": (elapsed_s - self.waited_s) / num_steps * 1e3}
        padded = self.engine._runner._padded
        if padded is not None:
            _sync()
            # The inputs are those of the last step: the contexts are real ones.
            result["gpu_ms"] = replay_ms(padded._replays[StepShape.decoding(batch)])
            result |= self._versions_ms(padded, batch)
            if batch in PROFILED:  # now, while the inputs are those of such a step
                self.profiles[f"decode_{batch}"] = self.kernels(StepShape.decoding(batch))
        self.clear()
        return {key: round(value, 3) for key, value in result.items()}

    def _versions_ms(self, padded: Any, batch: int) -> dict[str, float]:
        """The same step by each version of the kernels."""
        runner, result = self.engine._runner, {}
        views = padded._inputs.views(StepShape.decoding(batch))
        for kernels in triton_kernels(self.lm, runner._sampler, overlaps=torch.cuda.get_device_capability() >= (9, 0)):
            step = PaddedStep(self.lm, runner.cache, kernels)
            with runner._on_stream():
                try:
                    graph = GraphRecorder([step, step])._record(step, views)
                except Exception as error:
                    print(f"{kernels.name}: {type(error).__name__}: {error}", file=sys.stderr)
                    continue
                result[f"{kernels.name}_ms"] = replay_ms(graph.replay)
        return result

    def prefill(self, batch: int, num_rows: int, decoding: int = 0, repeats: int = 7) -> float:
        """Milliseconds of the step that computes `batch` new prompts beside `decoding` sequences; the median."""
        times = []
        for _ in range(repeats):
            self.submit(decoding, 250)
            while decoding and self.engine.stats().running < decoding:
                self.engine.step()
            for _ in range(3 if decoding else 0):
                self.engine.step()
            _sync()
            before = self.engine.stats().speech_tokens
            start_s = time.perf_counter()
            self.submit(batch, num_rows)
            self.engine.step()
            _sync()
            times.append((time.perf_counter() - start_s) * 1e3)
            assert self.engine.stats().speech_tokens >= before
            self.clear()
        return round(float(np.median(times)), 3)

    def kernels(self, shape: StepShape, most: int = 20) -> dict[str, Any]:
        """What one recorded step consists of."""
        from torch.profiler import ProfilerActivity, profile

        replay = self.engine._runner._padded._replays[shape]
        replay()
        _sync()
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            replay()
            _sync()
        events = [event for event in profiled.events() if str(event.device_type).endswith("CUDA")]
        total, count = Counter(), Counter()
        for event in events:
            total[event.name] += event.device_time
            count[event.name] += 1
        return {
            "kernels": len(events),
            "sum_us": round(sum(total.values()), 1),
            "top": [
                {"kernel": name[:120], "us": round(us, 1), "launches": count[name]}
                for name, us in total.most_common(most)
            ],
        }


def replay_ms(replay: Any, repeats: int = 30) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(3):
        replay()
    start.record()
    for _ in range(repeats):
        replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repeats


class Ending(Quiet):
    """Notes that its run has ended."""

    def __init__(self, ended: list[Any]) -> None:
        self._ended = ended

    def end(self, reason: Any) -> None:
        self._ended.append(reason)


def host_ms(batches: list[int]) -> dict[int, dict[str, float]]:
    """Milliseconds of the loop's thread per step."""
    directory, result = ModelDirectory.open(builtin_model_dir()), {}
    style = next(iter(directory.styles))
    lm = directory.load_llm(style, dtype=torch.float32, device=torch.device("cpu"))
    for batch in batches:
        bench = Bench(lm)
        runner = bench.engine._runner
        runner._padded = padded = PaddedSteps(
            runner.cache,
            lambda views: lambda: None,
            win_size=runner._sampler.win_size,
            most_rows=256,
            most_packed_rows=2048,
            most_running=256,
            most_tokens=1024,
        )
        padded._drawn.random_(0, lm.ids.num_codes)
        bench.submit(batch, 250)
        while bench.engine.stats().running < batch:
            bench.engine.step()
        steady_ms = least_ms(bench, lambda: None)
        assert bench.engine.stats().running == batch, "a run ended while it was measured"
        bench.clear()
        result[batch] = {"steady_ms": steady_ms, "changing_ms": changing_ms(bench, batch)}
    return result


def changing_ms(bench: Bench, batch: int) -> float:
    """The same while runs end and others take their place."""
    tags = (bench.lm.ids.end_of_prompt,) if bench.lm.ids.needs_end_of_prompt else ()
    ended: list[Any] = [None] * batch
    seeds = itertools.count()

    def replace() -> None:
        while ended:
            ended.pop()
            seed = next(seeds)
            prompt = LLMPrompt((*tags, *((5,) * 20)), (seed % 1000,) * 20, (9,) * 100, 4 + seed % 5)
            bench.engine.submit(prompt, Ending(ended), seed=seed)

    for _ in range(150):
        replace()
        bench.engine.step()
    return least_ms(bench, replace)


def least_ms(bench: Bench, before: Any, repeats: int = 8, num_steps: int = 50) -> float:
    """Milliseconds of a step, the least of `repeats`; `before` each of them something happens that does not count."""
    times = []
    for _ in range(repeats):
        taken_s = 0.0
        for _ in range(num_steps):
            before()
            start_s = time.thread_time()
            bench.engine.step()
            taken_s += time.thread_time() - start_s
        times.append(taken_s / num_steps * 1e3)
    return round(min(times), 3)


def _sync() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="cosyvoice2")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--no-overlap", action="store_true", help="without overlap_kernels")
    parser.add_argument("--eager", action="store_true", help="without CUDA graphs")
    parser.add_argument("--no-profile", action="store_true")
    parser.add_argument("--host", action="store_true", help="what the host does for a step; needs no GPU")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"command": " ".join(sys.argv), "machine": describe_machine()}
    if arguments.host:
        report["host"] = host_ms(arguments.batches)
        print(json.dumps(report["host"], indent=1))
        if arguments.output:
            arguments.output.write_text(json.dumps(report, indent=1) + "\n")
        return
    device = torch.device("cuda")
    with torch.inference_mode():
        lm = random_lm(arguments.family, DTYPES[arguments.dtype], device)
        bench = Bench(lm, disable_cudagraph=arguments.eager, overlap_kernels=not arguments.no_overlap)
        report["record_s"] = round(bench.record_s, 2)
        print(f"recorded in {bench.record_s:.1f} s", flush=True)
        report["decode"] = {batch: bench.decode(batch) for batch in arguments.batches}
        print(json.dumps(report["decode"], indent=1), flush=True)
        report["prefill_ms"] = {
            f"{batch}x{num_rows}": bench.prefill(batch, num_rows) for batch in (1, 4, 16) for num_rows in (125, 250)
        }
        report["mixed_ms"] = {
            f"{decoding}+{batch}x250": bench.prefill(batch, 250, decoding)
            for decoding, batch in ((16, 1), (64, 1), (64, 4), (200, 1))
        }
        print(json.dumps({key: report[key] for key in ("record_s", "prefill_ms", "mixed_ms")}, indent=1), flush=True)
        if not arguments.eager and not arguments.no_profile:
            report["profile"] = bench.profiles
            for name, profile in bench.profiles.items():
                print(name, profile["kernels"], "kernels", profile["sum_us"], "us")
                for line in profile["top"][:12]:
                    print(f"  {line['us']:9.1f} us {line['launches']:4d} x {line['kernel']}")
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
