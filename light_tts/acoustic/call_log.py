"""Which calls are under way, on whatever streams of the device: what they may still read is not given to others.

On one stream nobody needs this: whoever gets a place next writes to it after all that were launched before.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class LoggedCall:
    """A call that is under way; made by `CallLog.begin`."""

    def __init__(self, log: CallLog, number: int) -> None:
        self._log, self._number = log, number

    def end(self) -> None:
        """All that the call launched has been computed, or never will be. Harmless the second time."""
        self._log.end(self._number)


class CallLog:
    """Calls by number, in the order in which they began. Any thread."""

    def __init__(self) -> None:
        self._num_begun = 0
        self._under_way: set[int] = set()
        self._lock = threading.Lock()
        self._of_thread = threading.local()

    def begin(self) -> LoggedCall:
        """A call is about to be launched."""
        with self._lock:
            number, self._num_begun = self._num_begun, self._num_begun + 1
            self._under_way.add(number)
            self._of_thread.number = number
            return LoggedCall(self, number)

    def end(self, number: int) -> None:
        """See `LoggedCall.end`."""
        with self._lock:
            self._under_way.discard(number)

    @property
    def present(self) -> int | None:
        """The call that this thread has begun last; None: it has begun none."""
        return getattr(self._of_thread, "number", None)

    def goes_on(self, number: int | None) -> bool:
        """True while a call is under way."""
        with self._lock:
            return number in self._under_way

    @property
    def moment(self) -> int:
        """Now, after all calls that have begun. Takes no lock: an object may end anywhere."""
        return self._num_begun

    def are_over(self, moment: int) -> bool:
        """True when all calls that had begun at a moment have ended."""
        with self._lock:
            return not self._under_way or min(self._under_way) >= moment


class Retired(Generic[_Item]):
    """Places that nobody holds any more, but calls under way may still read. Any thread may put."""

    def __init__(self, calls: CallLog) -> None:
        self._calls = calls
        self._items: deque[tuple[int, _Item]] = deque()

    def put(self, item: _Item) -> None:
        """Nobody holds this any more. Takes no lock."""
        self._items.append((self._calls.moment, item))

    def take_all(self) -> list[_Item]:
        """All of them, for who has waited for the device itself."""
        ready = []
        while self._items:
            ready.append(self._items.popleft()[1])
        return ready

    def take(self) -> list[_Item]:
        """Those that no call reads any more, each once; by one thread at a time."""
        ready = []
        while self._items and self._calls.are_over(self._items[0][0]):
            ready.append(self._items.popleft()[1])
        return ready
