"""Asks the server's own health page now and then, over the network as others do, and tells when it stays ill."""

from __future__ import annotations

import http.client
import json
import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
TIMEOUT_S = 30.0


class HealthMonitor:
    """A thread that calls `on_illness` once, after three failed checks in a row.

    A server that loads is not ill; neither is one that has been told to stop: `close` comes before it stops answering.
    """

    def __init__(self, host: str, port: int, *, interval_s: float, on_illness: Callable[[], None]) -> None:
        self._address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port
        self._interval_s = interval_s
        self._on_illness = on_illness
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="health monitor", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def _watch(self) -> None:
        num_failures = 0
        while not self._closed.wait(self._interval_s):
            problem = self._problem()
            num_failures = num_failures + 1 if problem else 0
            if problem and not self._closed.is_set():
                logger.warning("health check %d of %d failed: %s", num_failures, MAX_FAILURES, problem)
            if num_failures == MAX_FAILURES and not self._closed.is_set():
                self._on_illness()
                return

    def _problem(self) -> str | None:
        """One check: None when all is well or still loading."""
        connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_S)
        try:
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            body = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            return f"no answer ({error})"
        finally:
            connection.close()
        if answer.status == 200 or body.get("status") == "loading":
            return None
        return str(body.get("error") or f"status {answer.status}")
