"""What somebody who helps from afar asks first: machine, GPU, driver, versions, variables. Nothing secret."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import Any

from light_tts.bench.machine import describe_machine

PACKAGES = (
    "torch", "triton", "numpy", "onnxruntime", "tokenizers", "safetensors", "av", "wetext", "fastapi", "starlette",
    "uvicorn", "uvloop", "httptools", "websockets", "prometheus-client", "structlog", "tensorrt",
)  # fmt: skip
VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    "NCCL_IB_DISABLE", "LD_LIBRARY_PATH", "PYTHONPATH",
)  # fmt: skip


def machine_report() -> dict[str, Any]:
    """Ready for JSON; the GPUs as their driver and as torch see them."""
    return {
        **describe_machine(),
        "executable": sys.executable,
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None,
        "torch_sees": _torch_sees(),
        "packages": {name: _version(name) for name in PACKAGES},
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _torch_sees() -> dict[str, Any]:
    import torch

    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            seen = torch.cuda.get_device_properties(index)
            capability = f"{seen.major}.{seen.minor}"
            gpus.append({"name": seen.name, "memory_bytes": seen.total_memory, "compute_capability": capability})
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
