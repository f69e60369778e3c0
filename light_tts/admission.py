"""Who may begin: a number of places, and a bounded queue in order of arrival for those who find none."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from light_tts.errors import Overloaded

_LEARNING_RATE = 0.2  # weight of the newest request in the measured service time
_MAX_RETRY_AFTER_S = 60.0


class Admission:
    """Any thread may call. `begin` callbacks run outside the lock: at once, or on the thread that gives a place back.

    max_running:  requests served at once; 0: no limit.
    max_queue:    requests that may wait for a place; 0: those who find none are refused at once.

    on_change:    called, outside the lock, whenever there is a `refusal` or none any more.
    """

    def __init__(self, *, max_running: int, max_queue: int) -> None:
        self._max_running = max_running
        self._max_queue = max_queue
        self._running: dict[Hashable, float] = {}  # -> when it got its place
        self._waiting: OrderedDict[Hashable, Callable[[], None]] = OrderedDict()
        self._extra: set[Hashable] = set()
        self._changed = threading.Condition()
        self._service_s = 1.0  # how long a place is held, measured
        self._is_stopped = False
        self.on_change: Callable[[], None] = _nothing

    @property
    def num_running(self) -> int:
        """Requests that hold a place."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting)

    @property
    def is_stopped(self) -> bool:
        """True when nobody is let in any more."""
        return self._is_stopped

    def enter(self, key: Hashable, begin: Callable[[], None]) -> None:
        """Take a place, or a place in the queue; `begin` is called when the request has its place.

        Raises Overloaded, with the expected wait, when both are full, and after `stop`.
        """
        with self._changed:
            refusal = self._refusal()
            if refusal is not None:
                raise refusal
            has_place = self._has_place()
            if has_place:
                self._running[key] = time.monotonic()
            else:
                self._waiting[key] = begin
            is_full = self._refusal() is not None
        if is_full:
            self.on_change()
        if has_place:
            begin()

    def refusal(self) -> Overloaded | None:
        """What `enter` would raise now."""
        with self._changed:
            return self._refusal()

    def enter_extra(self, key: Hashable, begin: Callable[[], None]) -> None:
        """Work that nobody waits for: it takes no place and is not waited for by `wait_until_empty`.

        Raises Overloaded after `stop`.
        """
        with self._changed:
            if self._is_stopped:
                raise _shutting_down()
            self._extra.add(key)
        begin()

    def leave(self, key: Hashable) -> None:
        """Give the place or the place in the queue back; the one who waits longest is next. Idempotent."""
        begin: Callable[[], None] | None = None
        with self._changed:
            was_full = self._refusal() is not None
            self._waiting.pop(key, None)
            self._extra.discard(key)
            began_s = self._running.pop(key, None)
            if began_s is not None:
                now_s = time.monotonic()
                self._service_s += _LEARNING_RATE * (now_s - began_s - self._service_s)
                if self._waiting and self._has_place():
                    following, begin = self._waiting.popitem(last=False)
                    self._running[following] = now_s
            is_full = self._refusal() is not None
            self._changed.notify_all()
        if was_full != is_full:
            self.on_change()
        if begin is not None:
            begin()

    def members(self) -> list[Hashable]:
        """Everybody inside, those who wait first."""
        with self._changed:
            return [*self._waiting, *self._running, *self._extra]

    def stop(self) -> None:
        """Let nobody in any more; who waits still gets a place."""
        with self._changed:
            self._is_stopped = True
        self.on_change()

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait for the last one to leave; False when the time was too short."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running and not self._waiting, timeout_s)

    def retry_after_s(self) -> float:
        """When a place is likely to be free, by the measured time that requests hold theirs."""
        expected_s = (len(self._waiting) + 1) * self._service_s / max(1, self._max_running)
        return min(max(1.0, expected_s), _MAX_RETRY_AFTER_S)

    def _has_place(self) -> bool:
        return not self._max_running or len(self._running) < self._max_running

    def _refusal(self) -> Overloaded | None:
        if self._is_stopped:
            return _shutting_down()
        if self._has_place() or len(self._waiting) < self._max_queue:
            return None
        queue = f" and {len(self._waiting)} wait" if self._max_queue else ""
        limit = "limits" if self._max_queue else "limit"
        return Overloaded(
            f"The server is busy: {len(self._running)} requests are running{queue}, its {limit}. Try again shortly.",
            self.retry_after_s(),
        )


def _shutting_down() -> Overloaded:
    return Overloaded("The server is shutting down and takes no new requests.")


def _nothing() -> None:
    pass
