"""The life of the thread of a backend: started, woken by commands, closed, broken, started again."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

from light_tts.errors import Cancelled, EngineFailure, StageLost
from light_tts.llm.step_cycle import failure

logger = logging.getLogger(__name__)


class EngineThread(ABC):
    """What backends share. Other threads leave commands and wake the thread, which obeys them and takes turns.

    It sleeps when the last turn found nothing to compute.

    on_death, busy_since_s:  see `SpeechTokenBackend`.
    """

    def __init__(self) -> None:
        self.on_death: Callable[[], None] = _nothing
        self.busy_since_s: float | None = None
        self._wake = threading.Condition()
        self._commands: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._is_idle, self._is_closing = True, False
        self._error: Exception | None = None

    # for everybody

    def start(self) -> None:
        """Start the thread; after a failure, start again with nothing running."""
        with self._wake:
            assert self._thread is None or not self._thread.is_alive(), "the engine is already running"
            self._is_idle, self._is_closing, self._error = True, False, None
            self._thread = threading.Thread(target=self._work, name="llm", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop the thread after its current turn; runs in progress fail with Cancelled."""
        with self._wake:
            self._is_closing = True
            self._wake.notify_all()
        self.join()
        self._fail_all(Cancelled("The server is shutting down."))

    def join(self) -> None:
        """Wait until the thread has ended."""
        if self._thread is not None:
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """True while the thread works."""
        return self._thread is not None and self._thread.is_alive() and self._error is None

    @property
    def error(self) -> Exception | None:
        """What broke the thread, if something did."""
        return self._error

    # what a backend does

    @abstractmethod
    def _turn(self) -> bool:
        """Obey, and compute a step; False: there is nothing to compute."""

    @abstractmethod
    def _fail_all(self, error: Exception) -> None:
        """End all runs, and forget the commands; on the thread or after it."""

    def _next_turn_s(self) -> float | None:
        """The moment of `time.monotonic` until which the thread may sleep at most; None: there is none."""
        return None

    # for a backend

    def _refuse_if_gone(self) -> None:
        """For new runs, with the lock. Raises StageLost when the thread broke, EngineFailure when it was closed."""
        if self._error is not None:
            raise StageLost(f"The language model has failed ({self._error}) and takes no requests.")
        if self._is_closing:
            raise EngineFailure("The language model has been closed.")

    def _command(self, command: Callable[[], None]) -> None:
        """Leave a command to the thread."""
        with self._wake:
            self._commands.append(command)
            self._wake.notify_all()

    def _obey(self) -> None:
        """Do what others have asked for, in their order."""
        while self._commands:
            self._commands.popleft()()

    def _wake_up(self) -> None:
        """Let `_wait_for_news` look again."""
        with self._wake:
            self._wake.notify_all()

    def _wait_for_news(self, must_wait: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Sleep as long as it must, asked again after each call of `_wake_up`; until a command or the timeout."""
        with self._wake:
            self._wake.wait_for(lambda: self._commands or self._is_closing or not must_wait(), timeout_s)

    # the thread

    def _work(self) -> None:
        try:
            while self._has_work():
                self.busy_since_s = time.monotonic()
                self._is_idle = not self._turn()
                self.busy_since_s = None
        except Exception as error:
            logger.exception("the language model's thread broke; its runs fail")
            self.busy_since_s = None
            with self._wake:
                self._error = error
            self._fail_all(failure(StageLost, error))
            self.on_death()

    def _has_work(self) -> bool:
        """Sleep until there is a command or something to compute; False when closing."""
        next_s = self._next_turn_s()
        with self._wake:
            while self._is_idle and not self._commands and not self._is_closing:
                if not self._wake.wait(None if next_s is None else max(0.0, next_s - time.monotonic())):
                    break
            return not self._is_closing


def _nothing() -> None:
    pass
