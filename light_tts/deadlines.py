"""Ends what takes too long: one thread that sleeps until the next deadline."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Hashable

_MIN_STALE = 64  # entries of finished requests before the heap is made anew


class DeadlineClock:
    """Calls back, on its own thread, what has not been removed when its time comes. Any thread may call."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._pending: dict[int, Callable[[], None]] = {}
        self._number_of: dict[Hashable, int] = {}
        self._count = 0
        self._is_closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="deadlines", daemon=True)

    def __len__(self) -> int:
        return len(self._pending)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop; nothing is called any more."""
        with self._changed:
            self._is_closing = True
            self._pending.clear()
            self._number_of.clear()
            self._changed.notify()
        self._thread.join()

    def add(self, key: Hashable, at_s: float, expire: Callable[[], None]) -> None:
        """Call `expire` at `at_s` of `time.monotonic`, unless `key` is removed before."""
        with self._changed:
            self._count += 1
            self._pending[self._count] = expire
            self._number_of[key] = self._count
            heapq.heappush(self._heap, (at_s, self._count))
            if self._heap[0][1] == self._count:
                self._changed.notify()

    def remove(self, key: Hashable) -> None:
        """It ended in time."""
        with self._changed:
            number = self._number_of.pop(key, None)
            if number is not None:
                self._pending.pop(number, None)
            if len(self._heap) > 2 * len(self._pending) + _MIN_STALE:
                self._heap = [entry for entry in self._heap if entry[1] in self._pending]
                heapq.heapify(self._heap)

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._is_closing:
                    return
                wait_s = self._heap[0][0] - time.monotonic() if self._heap else None
                if wait_s is None or wait_s > 0.0:
                    self._changed.wait(wait_s)
                    continue
                expire = self._pending.pop(heapq.heappop(self._heap)[1], None)
            if expire is not None:
                expire()
