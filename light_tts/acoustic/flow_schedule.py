"""Times and sizes of Euler steps in tensors that stay where they are: recorded steps serve any number of them."""

from __future__ import annotations

import torch
from torch import Tensor

from light_tts.models.nets.euler_time import cosine_schedule
from light_tts.models.nets.flow_net import FlowNet

_ALIGNED = 4  # a row of sizes begins at a multiple of 16 bytes, or Triton would compile its reader once more


class Schedule:
    """Slots for the values of a call's steps. A call of more steps than slots brings the later ones in as it goes.

    slots:  steps whose values lie ready at once.

    times:  [slots, ...] float32, see `FlowNet.time_table`.   sizes: [slots] rows of [1] float32.
    """

    def __init__(self, net: FlowNet, slots: int) -> None:
        self.slots = slots
        self.times = net.time_table(slots).clone()
        self._sizes = torch.zeros(slots, _ALIGNED, device=net.device)
        self._net = net
        self._tables: dict[int, tuple[Tensor, Tensor]] = {}
        self._loaded = 0  # the number of steps whose values are in the slots
        self.load(slots)

    def size(self, slot: int) -> Tensor:
        """[1] float32: how far the step in this slot takes the time on."""
        return self._sizes[slot, :1]

    def load(self, steps: int) -> None:
        """Bring in the first steps of a call of so many."""
        if self._loaded == steps:
            return
        times, sizes = self._table(steps)
        ready = min(steps, self.slots)
        self.times[:ready].copy_(times[:ready])
        self._sizes[:ready].copy_(sizes[:ready])
        self._loaded = steps

    def slot_of(self, step: int, steps: int) -> int:
        """Where the values of a step are, now: steps beyond the slots take turns in the last one."""
        if step < self.slots:
            return step
        times, sizes = self._table(steps)
        self.times[-1].copy_(times[step])
        self._sizes[-1].copy_(sizes[step])
        self._loaded = 0
        return self.slots - 1

    def _table(self, steps: int) -> tuple[Tensor, Tensor]:
        if steps not in self._tables:
            sizes = cosine_schedule(steps).diff().float()[:, None].expand(-1, _ALIGNED)
            self._tables[steps] = self._net.time_table(steps), sizes.to(self._sizes.device)
        return self._tables[steps]
