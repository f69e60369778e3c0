"""What one caller may ask for, at once and per minute, whatever room there is for others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from light_tts.admission import Admission
from light_tts.audio_stream import AudioStream
from light_tts.errors import Overloaded, RateLimited


class CallerLimits:
    """Counts each caller's requests, from their beginning until their audio has been passed on. Any thread may call.

    max_concurrent:       requests of one caller at once; 0: no limit.
    requests_per_minute:  that one caller may begin, from a bucket that holds one minute's worth; 0: no limit.
    """

    def __init__(self, max_concurrent: int, requests_per_minute: int) -> None:
        self._max_concurrent = max_concurrent
        self._requests_per_minute = requests_per_minute
        self._lock = threading.Lock()
        self._shares: dict[str, tuple[Admission, RateBucket]] = {}  # as many as there are keys

    def enter(self, caller: str, stream: AudioStream) -> None:
        """Count a request until its stream is left. Raises RateLimited, with the expected wait."""
        with self._lock:
            places, bucket = self._share(caller)
            wait_s = bucket.wait_s()
            if wait_s > 0.0:
                raise RateLimited(
                    f"This API key may begin {self._requests_per_minute} requests per minute and has used them up.",
                    wait_s,
                )
            try:
                places.enter(stream, _begin_nothing)
            except Overloaded as error:
                raise RateLimited(
                    f"This API key has {places.num_running} requests running, its limit. Try again when one has ended.",
                    error.retry_after_s,
                ) from None
            bucket.take()
        stream.on_left = partial(places.leave, stream)

    def _share(self, caller: str) -> tuple[Admission, RateBucket]:
        if caller not in self._shares:
            places = Admission(max_running=self._max_concurrent, max_queue=0)
            self._shares[caller] = places, RateBucket(self._requests_per_minute)
        return self._shares[caller]


class RateBucket:
    """One minute's worth of requests, filled again continuously. Its owner locks.

    per_minute:  0: never empty.
    clock:       seconds, never going back.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = float(per_minute)
        self._rate_hz = per_minute / 60.0
        self._clock = clock
        self._level = self._capacity
        self._filled_s = clock()

    def wait_s(self) -> float:
        """Seconds until there is a request to take; 0 when there is one."""
        if not self._capacity:
            return 0.0
        now_s = self._clock()
        self._level = min(self._capacity, self._level + (now_s - self._filled_s) * self._rate_hz)
        self._filled_s = now_s
        return max(0.0, (1.0 - self._level) / self._rate_hz)

    def take(self) -> None:
        """Take one, after `wait_s` has said that there is one."""
        self._level -= 1.0


def _begin_nothing() -> None:
    pass
