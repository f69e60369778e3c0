"""The language model's matrices as a plan wants them, and what that and an int8 KV cache save."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from light_tts.kernels.fp8_product import why_no_fp8_product
from light_tts.llm.paged_attention import PagedKVCache
from light_tts.llm.weight_plan import WeightPlan
from light_tts.models.nets.matrix import MakeMatrix, Matrix, PlainMatrix
from light_tts.models.nets.quantized_matrix import QuantizedMatrix
from light_tts.models.nets.speech_lm import SpeechLM

logger = logging.getLogger(__name__)

_SHOWN_NAMES = {"qkv": "qkv_proj", "output": "o_proj", "gate_up": "gate_up_proj", "down": "down_proj"}


def matrix_maker(plan: WeightPlan, *, dtype: torch.dtype, device: torch.device) -> MakeMatrix | None:
    """Makes the matrices of the body by the plan; None when all stay as they are."""
    if plan.keeps_all:
        return None
    formats = {plan.default, *(rule.format for rule in plan.rules)}
    if "fp8" in formats and (reason := why_no_fp8_product(device)) is not None:
        logger.warning("fp8: weights only, products stay in %s on %s: %s", dtype, device, reason)

    def make(name: str, weight: Tensor, bias: Tensor | None) -> Matrix:
        _, layer, matrix = name.split(".")
        kind = plan.format_of(int(layer), matrix)
        if kind == "none":
            return PlainMatrix(weight, bias, dtype=dtype, device=device)
        return QuantizedMatrix(weight, bias, kind, dtype=dtype, device=device)

    return make


@dataclass(frozen=True)
class WeightMemory:
    """What the matrices of a language model's body take.

    formats:          matrices by format; "none" are those left as they are.
    excluded:         published names of matrices left as they are, with their layers, while others are quantised.
    num_bytes:        taken by all of them.
    num_bytes_saved:  against all as they are.
    """

    formats: dict[str, int]
    excluded: dict[str, list[int]]
    num_bytes: int
    num_bytes_saved: int

    @property
    def format(self) -> str:
        """The format of all, or "custom" when there are several."""
        return next(iter(self.formats)) if len(self.formats) == 1 else "custom"


@dataclass(frozen=True)
class LLMMemory:
    """What a language model's matrices and its KV cache take; saved means against the model's own precision."""

    weights: WeightMemory
    kv_dtype: str
    kv_bytes: int
    kv_bytes_saved: int

    def __str__(self) -> str:
        weights = f"matrices {self.weights.format}, {_mb(self.weights.num_bytes, self.weights.num_bytes_saved)}"
        left_out = "".join(
            f"; {name} of layers {', '.join(map(str, layers))} as it is"
            for name, layers in self.weights.excluded.items()
        )
        return f"{weights}{left_out}; KV cache {self.kv_dtype}, {_mb(self.kv_bytes, self.kv_bytes_saved)}"


def llm_memory(lm: SpeechLM, cache: PagedKVCache) -> LLMMemory:
    """What a loaded language model takes."""
    dtype = str(cache.dtype).removeprefix("torch.")
    return LLMMemory(weight_memory(lm), dtype, cache.num_bytes, cache.num_bytes_saved)


def weight_memory(lm: SpeechLM) -> WeightMemory:
    """Look at every matrix of the body."""
    formats: Counter[str] = Counter()
    excluded: defaultdict[str, list[int]] = defaultdict(list)
    num_bytes = num_bytes_saved = 0
    for index, layer in enumerate(lm.body.layers):
        for name, shown in _SHOWN_NAMES.items():
            matrix = getattr(layer, name)
            if isinstance(matrix, QuantizedMatrix):
                formats[matrix.weights.kind] += 1
                num_bytes += matrix.weights.num_bytes
                num_bytes_saved += matrix.num_bytes_saved
            else:
                formats["none"] += 1
                excluded[shown].append(index)
                num_bytes += matrix.in_width * matrix.out_width * lm.dtype.itemsize
    if not any(kind != "none" for kind in formats):
        excluded.clear()
    return WeightMemory(dict(formats), dict(excluded), num_bytes, num_bytes_saved)


def _mb(num_bytes: int, num_bytes_saved: int) -> str:
    text = f"{num_bytes / 1e6:.1f} MB"
    return f"{text} ({num_bytes_saved / 1e6:.1f} MB saved)" if num_bytes_saved else text
