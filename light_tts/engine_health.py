"""What health pages say of an engine: snapshots of its parts, taken without any lock of the models."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from light_tts.acoustic.decoder import AcousticDecoder
from light_tts.llm.backend import LLMStats, SpeechTokenBackend
from light_tts.llm.quantization import LLMMemory


def llm_health(llms: Iterable[SpeechTokenBackend]) -> dict[str, int]:
    """Sums over the language models of a server."""
    stats: list[LLMStats] = [llm.stats() for llm in llms]
    return {name.name: sum(getattr(each, name.name) for each in stats) for name in fields(LLMStats)}


def quantization_health(memories: Iterable[LLMMemory]) -> dict[str, Any]:
    """Formats of the language models of a server, which are all loaded alike, and sums of their bytes."""
    each = list(memories)
    first = each[0]
    return {
        "weights": first.weights.format,
        "weight_formats": first.weights.formats,
        "excluded_layers": first.weights.excluded,
        "weight_bytes": sum(memory.weights.num_bytes for memory in each),
        "weight_bytes_saved": sum(memory.weights.num_bytes_saved for memory in each),
        "kv_cache": first.kv_dtype,
        "kv_bytes": sum(memory.kv_bytes for memory in each),
        "kv_bytes_saved": sum(memory.kv_bytes_saved for memory in each),
    }


def acoustic_health(decoder: AcousticDecoder) -> dict[str, int]:
    """Open runs, and the flow states kept for voices and for running streams."""
    return {
        "runs": decoder.num_runs,
        "prompt_cache_entries": len(decoder.flow.prompts),
        "prompt_cache_bytes": decoder.flow.prompts.used_bytes,
        "stream_cache_bytes": decoder.flow.stream_budget.used_bytes,
    }


def resident_bytes() -> int | None:
    """Memory of this process; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def gpu_memory(device: torch.device) -> dict[str, Any] | None:
    """Bytes of the device as its driver sees them: in use by all, by this process; what its allocator reserved.

    Where the driver does not tell processes apart, what is reserved stands for the process. None on CPU.
    """
    if device.type != "cuda":
        return None
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    own_bytes = driver_bytes(str(torch.cuda.get_device_properties(device).uuid), os.getpid())
    return {
        "index": torch.cuda.current_device() if device.index is None else device.index,
        "device": torch.cuda.get_device_name(device),
        "used_bytes": total_bytes - free_bytes,
        "total_bytes": total_bytes,
        "reserved_bytes": torch.cuda.memory_reserved(device),
        "allocated_bytes": torch.cuda.memory_allocated(device),
        "process_bytes": torch.cuda.memory_reserved(device) if own_bytes is None else own_bytes,
    }


def driver_bytes(uuid: str, pid: int) -> int | None:
    """Memory of a process on the GPU of that UUID, as `nvidia-smi` shows it; None when the driver does not say.

    It does not from inside some containers, whose process numbers it does not know.
    """
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        return None
    return next((process.usedGpuMemory for process in processes if process.pid == pid), None)


@functools.cache
def _nvml() -> Any:
    """The driver's library, opened once; None where it is not installed."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
