"""Clocks that go slower than time, so that a host of few cores is as fast, by them, as one that has several times more.

All that reads `time.monotonic` or `time.perf_counter`, or waits for a condition, believes that less time has passed:
the engine, players, arrivals of requests and whatever is pretended. Only what is computed takes its own time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def slow_down(factor: float) -> None:
    """Let clocks go slower by a factor from now on, in this process."""
    for name in ("monotonic", "perf_counter"):
        setattr(time, name, _slowed(getattr(time, name), factor))
    wait = threading.Condition.wait

    def wait_longer(condition: threading.Condition, timeout: float | None = None) -> bool:
        return wait(condition, None if timeout is None else factor * timeout)

    threading.Condition.wait = wait_longer  # type: ignore[assignment, method-assign]


def _slowed(clock: Callable[[], float], factor: float) -> Callable[[], float]:
    start_s = clock()
    return lambda: start_s + (clock() - start_s) / factor
