"""Which errors of a computation mean that the device itself is gone, and not that one input was bad."""

from __future__ import annotations

import torch


def is_device_lost(error: BaseException) -> bool:
    """True for errors after which every later call on the device fails too: illegal addresses, launch failures.

    Out of memory is not one of them, whether the allocator says so or the driver: smaller work may still succeed.
    """
    return isinstance(error, torch.AcceleratorError) and "out of memory" not in str(error)
