"""What computes each stage here, and why: for health pages and the log of the start."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from dataclasses import dataclass

from light_tts.errors import ConfigError
from light_tts.settings import LLMSettings, Settings

BUILT_IN = "built-in"
VLLM = "vllm"


@dataclass(frozen=True)
class Backend:
    """A name, and half a sentence."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def choose_backends(settings: Settings) -> dict[str, Backend]:
    """Stage -> what computes it."""
    return {
        "llm": _llm_backend(settings.llm),
        "flow": Backend(BUILT_IN, _why_no_tensorrt(settings.model.load_trt)),
        "vocoder": Backend(BUILT_IN, "all streams in one call"),
    }


def check_llm_backend(settings: LLMSettings, styles: Collection[str]) -> None:
    """Raises ConfigError when vLLM is asked for and is not installed, or cannot do what else is asked for.

    styles:  of the model directory; each has a language model of its own.
    """
    if settings.llm_backend != VLLM:
        return
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "llm_backend vllm: vLLM is not installed; pip install 'light-tts[vllm]', or use llm_backend built-in."
        )
    wrong = {
        f"quant_type {settings.quant_type}": settings.quant_type != "none",
        "kv_cache_dtype int8": settings.kv_cache_dtype == "int8",
        f"a model directory with {len(styles)} styles": len(styles) > 1,
    }
    for what, is_so in wrong.items():
        if is_so:
            raise ConfigError(f"llm_backend vllm does not go with {what}; use llm_backend built-in.")


def _llm_backend(settings: LLMSettings) -> Backend:
    if settings.llm_backend == VLLM:
        return Backend(VLLM, "its scheduler and kernels, our sampling rule; no text in pieces")
    return Backend(BUILT_IN, "all requests in one batch")


def _why_no_tensorrt(is_wanted: bool) -> str:
    if not is_wanted:
        return "TensorRT was not asked for, load_trt is off"
    if importlib.util.find_spec("tensorrt") is None:
        return "TensorRT is not installed"
    return "there is no TensorRT engine for this model and GPU"
