"""Sees stages die, starts them again, and runs what was put off until they work.

A stage that dies again and again is left down: readiness says so, and whoever watches the process replaces it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from light_tts.events import EngineEvents

logger = logging.getLogger(__name__)

WINDOW_S = 600.0


class Stage(Protocol):
    """Work behind a thread of its own, which calls `on_death` as its last act when it breaks."""

    on_death: Callable[[], None]

    @property
    def busy_since_s(self) -> float | None:
        """Of `time.monotonic`: when the step began that it works on; None: it waits for work."""

    def start(self) -> None:
        """Start the thread; after a failure with fresh states."""

    def join(self) -> None:
        """Wait until the thread has ended."""

    @property
    def is_alive(self) -> bool:
        """True while the thread works."""


class Supervisor:
    """Owns the restarts. Its methods may be called from any thread, the dying ones included.

    stages:        by name, for logs.
    max_restarts:  of all stages together within ten minutes.
    """

    def __init__(self, stages: Mapping[str, Stage], events: EngineEvents, *, max_restarts: int) -> None:
        self.num_restarts = 0
        self._stages = dict(stages)
        self._events = events
        self._max_restarts = max_restarts
        self._restarts_s: deque[float] = deque()
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="supervisor", daemon=True)
        self._is_closing = False

    def start(self) -> None:
        """Start the stages and begin to watch them."""
        for stage in self._stages.values():
            stage.start()
        self._thread.start()

    def close(self) -> None:
        """Restart nothing any more; tasks still put off are run, so that they can fail."""
        self._is_closing = True
        self._tasks.put(None)
        self._thread.join()

    def stage_died(self) -> None:
        """Look for dead stages."""
        self._tasks.put(_nothing)

    def when_revived(self, task: Callable[[], None]) -> None:
        """Run `task` after dead stages have been started again, or have been given up."""
        self._tasks.put(task)

    def down(self) -> list[str]:
        """Names of the stages that do not work now."""
        return [name for name, stage in self._stages.items() if not stage.is_alive]

    def complaint(self, stall_timeout_s: float) -> str | None:
        """What is wrong with the stages: those that do not work, and those whose step takes longer than that."""
        if down := self.down():
            return f"{' and '.join(down)}: the thread has died"
        begun_s = time.monotonic() - stall_timeout_s
        stuck = [name for name, stage in self._stages.items() if (stage.busy_since_s or begun_s) < begun_s]
        return f"{' and '.join(stuck)}: no end of a step for {stall_timeout_s:g} s" if stuck else None

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if not self._is_closing:
                self._revive()
            try:
                task()
            except Exception:
                logger.exception("what was put off until a restart failed")

    def _revive(self) -> None:
        for name in self.down():
            now_s = time.monotonic()
            while self._restarts_s and self._restarts_s[0] < now_s - WINDOW_S:
                self._restarts_s.popleft()
            if len(self._restarts_s) >= self._max_restarts:
                logger.error("the %s stage has died; it stays down after %d restarts", name, len(self._restarts_s))
                continue
            self._restarts_s.append(now_s)
            self._stages[name].join()
            self._stages[name].start()
            self.num_restarts += 1
            self._events.stage_restarted(name)
            logger.warning("the %s stage had died and was started again", name)


def _nothing() -> None:
    pass
