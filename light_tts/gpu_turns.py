"""How the language model gives way to flow and vocoder on the GPU that they share.

Kernels of both wait for each other: none can be stopped, and few leave room beside them. A language model that runs
ahead as fast as it can makes a flow call take twice as long, and steps of few sequences where steps of many would cost
hardly more. So while a call is under way, steps begin less often; and none begins that nobody waits for while somebody
waits for the call. Knows nothing of devices: it is told what begins and ends.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial


class Turn:
    """A call of flow and vocoder that is under way. One thread."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended: Callable[[], None] | None = ended

    def end(self) -> None:
        """It has ended, well or not. Harmless the second time."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()


class GpuTurns:
    """Shared by the acoustic thread, which tells of its calls, and the threads of language models, which ask.

    first_codes:  speech tokens that a first audio needs: a run with fewer is urgent.
    share:        of the time of a call, how much steps of the language model may take; 1: all.
    """

    def __init__(self, first_codes: int, share: float) -> None:
        assert 0.0 < share <= 1.0, "a share of nothing would stop the language model"
        self.first_codes = first_codes
        self._share = share
        self._lock = threading.Lock()
        self._num_calls = self._num_first_calls = 0
        self._wakes: list[Callable[[], None]] = []

    def call_at_end(self, wake: Callable[[], None]) -> None:
        """Have a function called, on the acoustic thread, whenever a call has ended."""
        self._wakes.append(wake)

    def begin(self, *, is_first: bool) -> Turn:
        """A call of flow and vocoder begins; `is_first`: somebody waits for it who has not heard anything yet."""
        with self._lock:
            self._num_calls += 1
            self._num_first_calls += is_first
        return Turn(partial(self._end, is_first))

    def _end(self, is_first: bool) -> None:
        with self._lock:
            self._num_calls -= 1
            self._num_first_calls -= is_first
        for wake in self._wakes:
            wake()

    def wait_s(self, stepped_ago_s: float, step_s: float, is_urgent: Callable[[], bool]) -> float:
        """Seconds until the next step may begin if no call ends before; infinite: not before one ends.

        stepped_ago_s:  since the last step began.
        step_s:         that it took.
        is_urgent:      some run is; asked only where it matters.
        """
        if not self._num_calls or self._share == 1.0:
            return 0.0
        if self._num_first_calls and not is_urgent():
            return math.inf
        return max(0.0, step_s / self._share - stepped_ago_s)


NO_TURNS = GpuTurns(0, 1.0)  # where nothing is shared
