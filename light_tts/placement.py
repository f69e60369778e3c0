"""Where the models run and in which precision, decided once, with the reason for the log."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass

import torch

from light_tts.cpu_affinity import usable_cpus
from light_tts.errors import ConfigError
from light_tts.settings import DType, ModelSettings

logger = logging.getLogger(__name__)

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # torch reads the first if it is set
ALLOCATOR_OPTIONS = "max_split_size_mb:512"
# How long one of several busy threads keeps the interpreter from the others: less than a step of the language model,
# many times what a switch costs. Python's own 5 ms are several steps.
MAX_TURN_S = 0.0005
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Placement:
    """The decision, and one sentence why."""

    device: torch.device
    llm_dtype: torch.dtype
    flow_dtype: torch.dtype
    vocoder_dtype: torch.dtype
    reason: str

    def describe(self) -> dict[str, str]:
        """Stage to dtype name, for health and logs."""
        stages = {"llm": self.llm_dtype, "flow": self.flow_dtype, "vocoder": self.vocoder_dtype}
        return {name: str(dtype).removeprefix("torch.") for name, dtype in stages.items()}


def place(settings: ModelSettings) -> Placement:
    """Resolve `auto`. Raises ConfigError when a GPU is asked for that is not there, or cannot do the dtype."""
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise ConfigError(
            "device 'cuda' was asked for, but torch sees no GPU; use --device cpu or install its CUDA build."
        )
    device = torch.device("cuda" if settings.device != "cpu" and has_cuda else "cpu")
    if device.type == "cuda":
        # cuDNN's attention plans anew for every length it has not met, and lengths grow with every token.
        torch.backends.cuda.enable_cudnn_sdp(False)
    if device.type == "cpu":
        half, vocoder, reason = torch.float32, torch.float32, "float32 (CPU)"
    elif torch.cuda.get_device_capability(device) >= (8, 0):
        major, minor = torch.cuda.get_device_capability(device)
        # The vocoder's numbers stay small: float16 rounds them as TF32 does, at the speed of bfloat16.
        half, vocoder, reason = (
            torch.bfloat16,
            torch.float16,
            f"bfloat16 ({torch.cuda.get_device_name(device)}, compute capability {major}.{minor})",
        )
    else:
        half, vocoder, reason = torch.float32, torch.float32, "float32 (GPU older than Ampere)"
    return Placement(
        device=device,
        llm_dtype=_resolve("llm_dtype", settings.llm_dtype, half, device),
        flow_dtype=_resolve("flow_dtype", settings.flow_dtype, half, device),
        vocoder_dtype=_resolve("vocoder_dtype", settings.vocoder_dtype, vocoder, device),
        reason=reason,
    )


def prepare_gpu(environment: MutableMapping[str, str]) -> None:
    """Set up torch for computing on a GPU, where there is one; before the first tensor on it (spec: server, 6.8)."""
    if not any(environment.get(name) for name in ALLOCATOR_VARIABLES):
        # Large blocks that stay whole serve texts of every length.
        environment[ALLOCATOR_VARIABLES[-1]] = ALLOCATOR_OPTIONS
    if not torch.cuda.is_available():
        return
    name = next(name for name in ALLOCATOR_VARIABLES if environment.get(name))
    # It would try all algorithms again for every length of audio that it has not met.
    torch.backends.cudnn.benchmark = False
    # What is left for the host are copies; a team of threads for one takes longer to wake than it saves.
    torch.set_num_threads(1)
    logger.info("GPU memory: %s=%s; cudnn.benchmark: off, since audio has any length", name, environment[name])
    shorten_turns()


def shorten_turns() -> None:
    """Let the threads of this process wait for each other no longer than MAX_TURN_S; for an engine on a GPU.

    There, each step is a short piece of Python on one of a few threads, and the GPU has nothing to do while that waits
    for its turn. Holds for the whole process, as all in `prepare_gpu` does; a shorter time that somebody set stays.
    """
    sys.setswitchinterval(min(sys.getswitchinterval(), MAX_TURN_S))


def prepare_cpu(threads: int) -> None:
    """Set up torch for computing on the processor; before the first product.

    threads:  of one operation. 0: half of the cores, at most 8, since two threads of ours compute at once, the language
              model's and the acoustic one.
    """
    torch.set_num_threads(threads or max(1, min(8, usable_cpus() // 2)))
    # oneDNN keeps a compiled kernel for each of the last 1024 shapes, which took 200 MB more and saved no time.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")


def _resolve(name: str, wanted: DType, automatic: torch.dtype, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        return automatic
    if wanted == "bfloat16" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        raise ConfigError(f"{name} bfloat16 needs a GPU of the Ampere generation or newer; use float16 or float32.")
    return _DTYPES[wanted]
