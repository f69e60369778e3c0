"""How long consecutive stages of one call took on the device, without stopping it to look."""

from __future__ import annotations

import time

import torch


class StageTimer:
    """`mark` between stages; `seconds` when the last one has ended."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._events: list[torch.cuda.Event] = []
        self._times_s: list[float] = []
        self.mark()

    @property
    def is_apart(self) -> bool:
        """The device computes while the host goes on."""
        return self._is_cuda

    def mark(self) -> None:
        """A stage ends and the next begins here."""
        if self._is_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            self._times_s.append(time.perf_counter())

    def wait(self, mark: int) -> None:
        """Until the device has come to a mark; the first is that of the beginning."""
        if self._is_cuda:
            self._events[mark].synchronize()

    def seconds(self) -> list[float]:
        """Time between marks, in order; waits for the last one."""
        self.wait(-1)
        if self._is_cuda:
            pairs = zip(self._events, self._events[1:], strict=False)
            return [before.elapsed_time(after) / 1000.0 for before, after in pairs]
        return [after - before for before, after in zip(self._times_s, self._times_s[1:], strict=False)]
