"""What a measurement was made on, found without loading torch."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import light_tts


def describe_machine() -> dict[str, Any]:
    """Processor, GPUs, versions and commit, as far as they can be found; None for what cannot."""
    root = Path(light_tts.__file__).resolve().parent.parent
    gpus = _output(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    return {
        "light_tts": light_tts.__version__,
        # Installed in site-packages the version says it all, and a repository around that would be another one.
        "commit": _output(["git", "-C", str(root), "describe", "--always", "--dirty"])
        if (root / ".git").exists()
        else None,
        "python": platform.python_version(),
        "torch": _version("torch"),
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "gpus": gpus.splitlines() if gpus else [],
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str | None:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _output(command: list[str]) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
