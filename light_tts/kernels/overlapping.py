"""Where kernels may be launched before the one before has ended."""

from __future__ import annotations

import torch


def can_overlap(device: torch.device) -> bool:
    """True where programmatic dependent launch exists: compute capability 9.0."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
