"""Samples that a device is still computing: who launched the work need not wait for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class HostCopy:
    """A tensor on its way to the host; made on the stream that computes it."""

    def __init__(self, tensor: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._tensor.copy_(tensor, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._tensor = tensor

    def wait(self) -> Tensor:
        """The tensor on the host, once it is there."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._tensor


class Part(NamedTuple):
    """So many samples, and how to get them, which may wait for the device."""

    num_samples: int
    fetch: Callable[[], Tensor]


class PendingSamples:
    """The samples of one job; their number is known before they are."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts

    @classmethod
    def of(cls, samples: Tensor) -> PendingSamples:
        """Samples [N] on whatever device."""
        return cls([Part(samples.numel(), HostCopy(samples.float()).wait)])

    @property
    def num_samples(self) -> int:
        """How many there will be."""
        return sum(part.num_samples for part in self._parts)

    def fetch(self) -> Tensor:
        """[N] float32 on the host; waits for the device."""
        parts = [part.fetch() for part in self._parts]
        if len(parts) == 1:
            return parts[0]
        # By numpy: torch would wake threads, and waiting for them takes longer.
        return torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *(part.numpy() for part in parts)]))
