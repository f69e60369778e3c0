"""Pure ASGI middleware: how much one API key may ask for, at once and per minute."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from light_tts.admission import Admission
from light_tts.errors import Overloaded
from light_tts.server.errors import RateLimited
from light_tts.server.refusal import refuse


class KeyLimits:
    """Counts the synthesis requests of each key, from acceptance to their last byte. Stands behind `ApiKeys`.

    num_keys:             keys are numbered from 0; requests without one are not limited here.
    max_concurrent:       of one key; 0: no limit.
    requests_per_minute:  of one key, as a bucket that holds one minute's worth; 0: no limit.
    """

    def __init__(self, app: ASGIApp, num_keys: int, *, max_concurrent: int, requests_per_minute: int) -> None:
        self._app = app
        self._max_concurrent = max_concurrent
        self._requests_per_minute = requests_per_minute
        self._places = [Admission(max_running=max_concurrent, max_queue=0) for _ in range(num_keys)]
        self._buckets = [RateBucket(requests_per_minute) for _ in range(num_keys)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        number = scope.get("state", {}).get("api_key")
        if number is None or not scope["state"]["record"].is_synthesis:
            await self._app(scope, receive, send)
            return
        request = object()
        try:
            self._enter(number, request)
        except RateLimited as error:
            await refuse(error, scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._places[number].leave(request)

    def _enter(self, number: int, request: object) -> None:
        """Raises RateLimited when the key has no place, or no request left for now."""
        places, bucket = self._places[number], self._buckets[number]
        wait_s = bucket.wait_s()
        if wait_s > 0.0:
            raise RateLimited(
                f"This API key may begin {self._requests_per_minute} requests per minute and has used them up.", wait_s
            )
        try:
            places.enter(request, _begin_nothing)
        except Overloaded as error:
            raise RateLimited(
                f"This API key has {places.num_running} requests running, its limit. Try again when one has ended.",
                error.retry_after_s,
            ) from None
        bucket.take()


class RateBucket:
    """One minute's worth of requests, filled again continuously. Used on one thread.

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
