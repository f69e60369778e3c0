"""What computes each stage here, and why: for health pages and the log of the start."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from light_tts.settings import Settings

BUILT_IN = "built-in"


@dataclass(frozen=True)
class Backend:
    """A name, and half a sentence."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def choose_backends(settings: Settings) -> dict[str, Backend]:
    """Stage -> what computes it. Nothing that is missing keeps a server from starting."""
    return {
        "llm": Backend(BUILT_IN, "all requests in one batch"),
        "flow": Backend(BUILT_IN, _why_no_tensorrt(settings.model.load_trt)),
        "vocoder": Backend(BUILT_IN, "all streams in one call"),
    }


def _why_no_tensorrt(is_wanted: bool) -> str:
    if not is_wanted:
        return "TensorRT was not asked for, load_trt is off"
    if importlib.util.find_spec("tensorrt") is None:
        return "TensorRT is not installed"
    return "there is no TensorRT engine for this model and GPU"
