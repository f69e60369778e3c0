"""What the tests of the language model share: tiny models of both generations, engines, a sink that remembers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from light_tts.gpu_turns import NO_TURNS, GpuTurns
from light_tts.llm.engine import SpeechTokenEngine
from light_tts.models.model_config import SamplingDefaults
from light_tts.models.nets.matrix import PlainMatrix
from light_tts.models.nets.speech_lm import SpeechLM, build_speech_lm
from light_tts.settings import LLMSettings
from light_tts.types import FinishReason, LLMPrompt
from light_tts.verify.llm_golden import read_speech_ids

GOLDEN = Path(__file__).parents[1] / "golden" / "llm_tiny"
MODELS = ("cosyvoice2", "cosyvoice3")
SAMPLING = SamplingDefaults()


def load_tiny(name: str, **placement: Any) -> SpeechLM:
    config = json.loads((GOLDEN / name / "config.json").read_text())
    state = load_file(GOLDEN / name / "llm.safetensors")
    return build_speech_lm(config["qwen2"], state, read_speech_ids(config), **placement)


def stored_as_on_a_gpu(lm: SpeechLM) -> SpeechLM:
    """An output's numbers side by side, as the kernels want them."""
    for matrix in lm.modules():
        if isinstance(matrix, PlainMatrix):
            matrix.weight = torch.nn.Parameter(matrix.weight.t().contiguous().t(), requires_grad=False)
    lm.head = torch.nn.Parameter(lm.head.contiguous(), requires_grad=False)
    return lm


@dataclass
class RecordingSink:
    codes: list[int] = field(default_factory=list)
    reason: FinishReason | None = None
    error: Exception | None = None
    num_ends: int = 0

    def put(self, tokens):
        assert self.num_ends == 0, "codes after the end"
        self.codes.extend(tokens)

    def end(self, reason):
        self.reason = reason
        self.num_ends += 1

    def fail(self, error):
        self.error = error
        self.num_ends += 1

    @property
    def outcome(self):
        return self.codes, self.reason, type(self.error)


def make_engine(lm: SpeechLM, *, turns: GpuTurns = NO_TURNS, **settings) -> SpeechTokenEngine:
    values = {"max_total_tokens": 4096, "max_request_tokens": 1024} | settings
    return SpeechTokenEngine(lm, sampling=SAMPLING, settings=LLMSettings(**values), mix_ratio=(5, 15), turns=turns)


def prompt_of(
    lm: SpeechLM,
    text: list[int],
    prompt_text: Sequence[int] = (),
    prompt_speech: Sequence[int] = (),
) -> LLMPrompt:
    tag = [lm.ids.end_of_prompt] if lm.ids.needs_end_of_prompt else []
    return LLMPrompt((*tag, *prompt_text), tuple(text), tuple(prompt_speech), len(text))


def run_dry(engine: SpeechTokenEngine, most: int = 5000) -> None:
    for _ in range(most):
        if not engine.step():
            return
    raise AssertionError(f"still busy after {most} steps")
