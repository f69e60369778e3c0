"""What streams carry from piece to piece on a GPU: one row of each tensor per stream, so that a recorded call finds it.

Knows nothing of what the tensors mean.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import torch
from torch import Tensor


class StatePool:
    """Named tensors [slots + 1, ...] of zeros; the last row is where rows that only pad a batch leave theirs.

    Slots may be taken and given back by any thread; the tensors belong to the vocoder's.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]], slots: int, device: torch.device
    ) -> None:
        self.tensors = {
            name: torch.zeros(slots + 1, *shape, dtype=dtype, device=device) for name, (shape, dtype) in shapes.items()
        }
        self.dump_slot = slots
        self._free = list(range(slots))
        self._lock = threading.Lock()

    @property
    def num_used(self) -> int:
        """Slots that somebody has."""
        return self.dump_slot - len(self._free)

    def grow(self) -> None:
        """Twice as many slots, in new tensors that hold what the old ones held."""
        with self._lock:
            slots = self.dump_slot
            for name, old in self.tensors.items():
                new = old.new_zeros(2 * slots + 1, *old.shape[1:])
                new[:slots] = old[:slots]
                self.tensors[name] = new
            self.dump_slot = 2 * slots
            self._free.extend(range(slots, 2 * slots))

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def take(self) -> int | None:
        """A slot with the rubbish of whoever had it before; None when all are taken."""
        with self._lock:
            return self._free.pop() if self._free else None

    def give_back(self, slot: int) -> None:
        """The slot is free again."""
        with self._lock:
            self._free.append(slot)

    def read(self, name: str, slots: Tensor) -> Tensor:
        """Rows of a tensor: slots [B] int64 -> [B, ...]."""
        return self.tensors[name].index_select(0, slots)

    def write(self, name: str, slots: Tensor, values: Tensor) -> None:
        """Replace rows of a tensor."""
        tensor = self.tensors[name]
        tensor.index_copy_(0, slots, values.to(tensor.dtype))
