"""When the language model gives way to flow and vocoder on the GPU that they share.

Kernels of both wait for each other: none can be stopped, and few leave room beside them. A language model that runs
ahead makes the call for somebody's first audio take twice as long, and holds up the thread that launches it. So from
the moment at which one could begin to its end, no step begins that nobody waits for. Knows nothing of devices: it is
told what begins and ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial


class Turn:
    """A call of flow and vocoder that is under way. One thread."""

    def __init__(self, ended: Callable[[], None] | None) -> None:
        self._ended = ended

    def end(self) -> None:
        """It has ended, well or not. Harmless the second time."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()


class GpuTurns:
    """Shared by the acoustic threads, which tell of their calls, and the threads of language models, which ask.

    first_codes:  speech tokens that a first audio needs: somebody waits for a run with fewer. 0: nothing is shared.
    """

    def __init__(self, first_codes: int) -> None:
        self.first_codes = first_codes
        self._lock = threading.Lock()
        self._num_first_calls = 0
        self._wakes: list[Callable[[], None]] = []

    def call_at_change(self, wake: Callable[[], None]) -> None:
        """Have a function called, on an acoustic thread, whenever a call for a first audio has begun or ended.

        Where nothing is shared it never is, and is not kept: everybody's engines ask `NO_TURNS`.
        """
        if self.first_codes:
            self._wakes.append(wake)

    def begin(self, *, is_first: bool) -> Turn:
        """A call of flow and vocoder begins; `is_first`: somebody waits for it who has not heard anything yet."""
        if not is_first or not self.first_codes:
            return Turn(None)
        self._count(1)
        return Turn(partial(self._count, -1))

    @property
    def serves_first_audio(self) -> bool:
        """A call is under way that somebody waits for who has not heard anything yet."""
        return self._num_first_calls > 0

    def _count(self, change: int) -> None:
        with self._lock:
            self._num_first_calls += change
        for wake in self._wakes:
            wake()


NO_TURNS = GpuTurns(0)
