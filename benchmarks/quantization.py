"""What each format of weights and KV cache does to the language model: token agreement, logit error, phoneme errors.

    python benchmarks/quantization.py --every 6 -o benchmarks/results/quantization.json
    python benchmarks/quantization.py --phonemes --phoneme-every 1 -o benchmarks/results/quantization.json

Everything is against the same model in float32, with its matrices and its KV cache as they are. Rows are read one by
one, as in decoding, along sequences that the reference model sampled. Phoneme errors are of whole answers in a named
voice, heard by the recogniser that comes with the built-in model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests" / "assets" / "eval")]

import quality  # noqa: E402
import score  # noqa: E402

from light_tts.assets import builtin_model_dir  # noqa: E402
from light_tts.bench.machine import describe_machine  # noqa: E402
from light_tts.engine import TTSEngine  # noqa: E402
from light_tts.frontend.frontend import Frontend  # noqa: E402
from light_tts.llm.engine import SpeechTokenEngine  # noqa: E402
from light_tts.llm.layout import one_way_rows  # noqa: E402
from light_tts.llm.quantization import matrix_maker, weight_memory  # noqa: E402
from light_tts.llm.weight_plan import WeightFormat, WeightPlan  # noqa: E402
from light_tts.models.model_config import SamplingDefaults  # noqa: E402
from light_tts.models.model_dir import ModelDirectory  # noqa: E402
from light_tts.models.nets.speech_lm import SpeechLM, build_speech_lm  # noqa: E402
from light_tts.settings import FrontendSettings, LLMSettings, Settings  # noqa: E402
from light_tts.types import LLMPrompt, SamplingOptions, SynthesisRequest  # noqa: E402
from light_tts.verify.llm_golden import read_speech_ids  # noqa: E402
from light_tts.verify.token_agreement import common_start, compare_logits, logits_along  # noqa: E402

CPU = torch.device("cpu")


class Form(NamedTuple):
    """A way to keep matrices and KV cache."""

    weights: WeightFormat = "none"
    kv_int8: bool = False
    dtype: torch.dtype = torch.float32


FORMS = {
    "bfloat16": Form(dtype=torch.bfloat16),
    "int8": Form("int8"),
    "fp8": Form("fp8"),
    "int4": Form("int4"),
    "int8 KV": Form(kv_int8=True),
    "int8, int8 KV": Form("int8", kv_int8=True),
}
REFERENCE = Form()


class Model(NamedTuple):
    """A model that can be loaded in any form, and what to let it say."""

    name: str
    load: Any
    prompts: list[LLMPrompt]


class Codes:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.codes: list[int] = []

    def put(self, tokens: Sequence[int]) -> None:
        self.codes.extend(tokens)

    def end(self, reason: Any) -> None: ...

    def fail(self, error: Exception) -> None:
        raise error


def builtin_model(every: int) -> Model:
    directory = ModelDirectory.open(Path(builtin_model_dir()))
    frontend = Frontend.from_model_directory(
        directory, FrontendSettings(), prompt_alignment="aligned", first_hop_tokens=22
    )
    rows = sentences()[::every]
    requests = [SynthesisRequest(row["text"], voice=quality.VOICE_OF[row["language"]]) for row in rows]
    prompts = [prompt for request in requests for prompt in frontend.prepare(request).segments]

    def load(form: Form) -> SpeechLM:
        make = matrix_maker(WeightPlan(form.weights), dtype=form.dtype, device=CPU)
        return directory.load_llm(dtype=form.dtype, make_matrix=make)

    return Model("built-in", load, prompts)


def golden_model(name: str) -> Model:
    folder = ROOT / "tests" / "golden" / "llm_tiny" / name
    config = json.loads((folder / "config.json").read_text())
    cases = json.loads((folder / "prefill.json").read_text()).values()
    prompts = [
        LLMPrompt(tuple(case["prompt_text"]), tuple(case["text"]), tuple(case["prompt_speech"]), len(case["text"]))
        for case in cases
    ]

    def load(form: Form) -> SpeechLM:
        make = matrix_maker(WeightPlan(form.weights), dtype=form.dtype, device=CPU)
        state = load_file(folder / "llm.safetensors")
        return build_speech_lm(config["qwen2"], state, read_speech_ids(config), dtype=form.dtype, make_matrix=make)

    return Model(f"golden {name}", load, prompts)


def sentences() -> list[dict[str, str]]:
    return [json.loads(line) for line in (ROOT / "tests/assets/eval/sentences.jsonl").read_text().splitlines()]


def speak(lm: SpeechLM, prompts: list[LLMPrompt], sampling: SamplingOptions, *, kv_int8: bool) -> list[list[int]]:
    """Codes of each prompt, with the same seeds whatever the form."""
    settings = LLMSettings(max_total_tokens=32768, kv_cache_dtype="int8" if kv_int8 else "auto")
    engine = SpeechTokenEngine(lm, sampling=SamplingDefaults(), settings=settings, mix_ratio=(5, 15))
    sinks = [Codes() for _ in prompts]
    for seed, (prompt, sink) in enumerate(zip(prompts, sinks, strict=True)):
        engine.submit(prompt, sink, seed=seed, sampling=sampling)
    while engine.step():
        pass
    return [sink.codes for sink in sinks]


def measure_tokens(model: Model) -> dict[str, Any]:
    reference = model.load(REFERENCE)
    greedy = SamplingOptions(greedy=True)
    sampled = speak(reference, model.prompts, SamplingOptions(), kv_int8=False)
    wanted_greedy = speak(reference, model.prompts, greedy, kv_int8=False)
    sequences = []
    for prompt, codes in zip(model.prompts, sampled, strict=True):
        rows = one_way_rows(prompt, reference.ids)
        sequences.append(([*rows, *(reference.ids.speech_row0 + code for code in codes)], len(rows)))
    wanted = logits_along(reference, sequences)
    result = {}
    for name, form in FORMS.items():
        lm = model.load(form)
        codes = speak(lm, model.prompts, greedy, kv_int8=form.kv_int8)
        starts = [common_start(one, other) for one, other in zip(wanted_greedy, codes, strict=True)]
        memory = weight_memory(lm)
        result[name] = {
            **asdict(compare_logits(wanted, logits_along(lm, sequences, kv_int8=form.kv_int8))),
            "greedy_common_start": float(np.mean(starts)),
            "greedy_codes": [sum(map(len, wanted_greedy)), sum(map(len, codes))],
            "matrix_bytes": memory.num_bytes,
        }
        print(model.name, name, json.dumps(result[name]))
    return result


def measure_phonemes(every: int, seed: int) -> dict[str, Any]:
    recogniser = score.Recogniser(builtin_model_dir())
    result = {}
    for name, form in {"float32": REFERENCE, **FORMS}.items():
        if form.dtype != torch.float32:
            continue
        llm = LLMSettings(quant_type=form.weights, kv_cache_dtype="int8" if form.kv_int8 else "auto")
        with TTSEngine.load(Settings(llm=llm)) as engine:
            run = quality.measure(engine, recogniser, sentences()[::every], seed, False, "named")
            run["quantization"] = engine.health()["quantization"]
        result[name] = {key: run[key] for key in ("per", "audio_s", "quantization")}
        result[name]["errors"] = [sentence["errors"] for sentence in run["sentences"]]
        print("phonemes", name, json.dumps(result[name]["per"]), flush=True)
    return result


def main() -> None:
    arguments = _parse()
    output = Path(arguments.output) if arguments.output else None
    report: dict[str, Any] = json.loads(output.read_text()) if output and output.exists() else {}
    part = "phonemes" if arguments.phonemes else "tokens"
    found: dict[str, Any] = {"command": " ".join(sys.argv), "machine": describe_machine()}
    if arguments.phonemes:
        found["sentences"], found["seed"] = len(sentences()[:: arguments.phoneme_every]), arguments.seed
        found["forms"] = measure_phonemes(arguments.phoneme_every, arguments.seed)
    else:
        models = [golden_model("cosyvoice2"), golden_model("cosyvoice3"), builtin_model(arguments.every)]
        found["forms"] = {model.name: measure_tokens(model) for model in models}
    if output:
        output.write_text(json.dumps(report | {part: found}, indent=1) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=6, help="tokens: take every n-th sentence of the built-in model")
    parser.add_argument("--phonemes", action="store_true", help="measure phoneme errors instead")
    parser.add_argument("--phoneme-every", type=int, default=1, help="phonemes: take every n-th sentence")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", help="JSON file; the part that is not measured is kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
