"""What ends a stage and what only ends a call."""

import pytest
import torch

from light_tts.models.device_errors import is_device_lost


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), True),
        (torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), False),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_a_device_without_memory_is_not_lost(error: Exception, is_lost: bool) -> None:
    assert is_device_lost(error) is is_lost
