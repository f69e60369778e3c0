"""A GPU that only takes time, and that two streams of work share: the language model's, and flow's and vocoder's.

While one of them is idle the other has the device for itself. While both have work, each gets on more slowly, by as
much as makes the sum of both a little less than what they take one after the other: so it is on one H200, where a flow
call for 16 streams takes 40 instead of 30 ms with thirty decoding steps beside it, which take 1.3 instead of 0.6 ms
each (`gpu-load.txt`).
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

# Of what both streams do, in parts of what one alone does: a little of one goes on in the gaps of the other.
SHARED_RATE = 1.2

Table = Sequence[tuple[float, float]]  # ascending points of a curve


def on_curve(table: Table, value: float) -> float:
    """The curve through the points, straight between them and after the last."""
    if value <= table[0][0]:
        return table[0][1]
    index = min(len(table) - 1, bisect_left(table, (value,)))
    (before, low), (after, high) = table[index - 1], table[index]
    return low + (value - before) / (after - before) * (high - low)


class Work:
    """Some seconds of the device. `done_s` is when it was done; None before.

    llm_rate:  how fast decoding steps go beside it, 1 being as fast as alone.
    """

    def __init__(self, device: PretendedDevice, seconds: float, llm_rate: float) -> None:
        self.device, self.left_s, self.llm_rate = device, seconds, llm_rate
        self.done_s: float | None = None

    def synchronize(self) -> None:
        """Wait until it is done, as a CUDA event does."""
        self.device.wait(self)


class PretendedDevice:
    """Any thread adds work and waits for it; nothing runs in between."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._steps: deque[Work] = deque()
        self._calls: deque[Work] = deque()
        self._now_s = time.monotonic()

    def add_step(self, seconds: float) -> Work:
        """Work of the language model, after what it has already."""
        return self._add(self._steps, seconds, 1.0)

    def add_call(self, seconds: float, llm_rate: float) -> Work:
        """Work of flow or vocoder, after what they have already."""
        return self._add(self._calls, seconds, llm_rate)

    def last_call(self) -> Work | None:
        """What flow and vocoder will have done last; None: they have nothing to do."""
        with self._condition:
            self._advance()
            return self._calls[-1] if self._calls else None

    def wait(self, work: Work) -> None:
        """Until it is done."""
        with self._condition:
            while True:
                self._advance()
                if work.done_s is not None:
                    return
                # Others may add work that holds it up, or end before it: then it is asked again.
                self._condition.wait(self._next_s())

    def _add(self, queue: deque[Work], seconds: float, llm_rate: float) -> Work:
        work = Work(self, seconds, llm_rate)
        with self._condition:
            self._advance()
            queue.append(work)
            self._condition.notify_all()
        return work

    def _rates(self) -> tuple[float, float]:
        """(of steps, of calls)."""
        if not self._steps or not self._calls:
            return 1.0, 1.0
        llm_rate = self._calls[0].llm_rate
        return llm_rate, SHARED_RATE - llm_rate

    def _next_s(self) -> float:
        """Seconds until something is done, if nothing is added."""
        heads = zip((self._steps, self._calls), self._rates(), strict=True)
        return min(queue[0].left_s / rate for queue, rate in heads if queue)

    def _advance(self) -> None:
        """Do what has been done since the last look."""
        now_s = time.monotonic()
        while (self._steps or self._calls) and self._now_s < now_s:
            passed_s = min(now_s - self._now_s, self._next_s())
            self._now_s += passed_s
            for queue, rate in zip((self._steps, self._calls), self._rates(), strict=True):
                if queue:
                    queue[0].left_s -= passed_s * rate
            for queue in (self._steps, self._calls):
                if queue and queue[0].left_s <= 1e-9:
                    queue.popleft().done_s = self._now_s
        self._now_s = now_s
