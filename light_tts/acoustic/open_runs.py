"""All runs that are open, and which hops of them a lane computes next: what the decoder's threads share."""

from __future__ import annotations

import logging
import threading
import time

from light_tts.acoustic.lane_share import LaneShare
from light_tts.acoustic.run import AcousticRun, Work
from light_tts.errors import EngineFailure, LightTTSError, StageLost
from light_tts.types import FinishReason

logger = logging.getLogger(__name__)


class OpenRuns:
    """Runs by key, in the order in which they were opened. Any thread; a context in which its lock is held.

    express_streams:  with more runs an express lane is not told of news, of which there are thousands a second.
    error:            why nothing is served any more, set when a thread died.
    """

    def __init__(self, express_streams: int = 0) -> None:
        lock = threading.RLock()
        self._lock = lock
        self._main, self._express = threading.Condition(lock), threading.Condition(lock)
        self._express_streams = express_streams
        self.error: BaseException | None = None
        self.is_closing = False
        self._runs: dict[int, AcousticRun] = {}
        self._next_key = 0

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def notify(self) -> None:
        """There is something new to decide. The lock is held."""
        self._main.notify()
        if len(self._runs) <= self._express_streams:
            self._express.notify()

    def __len__(self) -> int:
        return len(self._runs)

    def __contains__(self, run: AcousticRun) -> bool:
        return run.key in self._runs

    def next_key(self) -> int:
        """A key that no other run has."""
        with self:
            self._next_key += 1
            return self._next_key - 1

    def add(self, run: AcousticRun) -> None:
        """Open a run. Raises StageLost when nothing is served any more."""
        with self:
            if self.error is not None or self.is_closing:
                raise StageLost("The acoustic decoder is not running.")
            self._runs[run.key] = run
            if len(self._runs) > 1:
                self.notify()  # how many there are decides who serves a first hop; one by itself has none yet

    def wake(self) -> None:
        """Something outside of the runs has changed."""
        with self:
            self.notify()

    def stop(self, error: BaseException | None = None) -> None:
        """Let all lanes end, since one has died or all shall."""
        with self:
            if error is None:
                self.is_closing = True
            elif self.error is None:
                self.error = error
            self._main.notify()
            self._express.notify()

    def take(self, share: LaneShare, *, is_idle: bool) -> Work | None:
        """The planner's choice for a lane, whose runs it holds from now on; None: stop. Ends dead runs on the way.

        is_idle: block until hops can run; otherwise there may be none.
        """
        while True:
            with self:
                if self.is_closing or self.error is not None:
                    return None
                dead = [run for run in self._runs.values() if run.is_dead and run.is_free_for(share)]
                for run in dead:
                    del self._runs[run.key]
                    self.notify()
                if not dead:
                    work, recheck_s = share.choose(self._runs, time.monotonic(), is_idle=is_idle)
                    if work:
                        share.begin(work)
                    if work or not is_idle:
                        return work
                    (self._express if share.is_express else self._main).wait(recheck_s)
            for run in dead:
                bury(run)

    def let_go(self, work: Work, share: LaneShare) -> None:
        """The oldest call of a lane has ended: others may have its runs."""
        with self:
            share.end(work)
            self.notify()

    def end(self, run: AcousticRun, error: Exception | None) -> None:
        """A run is over. By the lane that holds it."""
        with self:
            self._runs.pop(run.key, None)
            self.notify()
        run.error = error
        bury(run)

    def fail_all(self) -> None:
        """The end of all runs, when no lane serves any more."""
        with self:
            runs, self._runs = list(self._runs.values()), {}
        for run in runs:
            run.close()
            if not run.is_cancelled:
                run.sink.fail(StageLost("The acoustic decoder stopped."))


def bury(run: AcousticRun) -> None:
    """Free a run and tell its sink, unless the reader itself went away."""
    run.close()
    if run.is_cancelled:
        return
    try:
        if run.error is None:
            run.sink.end(run.reason or FinishReason.STOP)
        elif isinstance(run.error, LightTTSError):
            run.sink.fail(run.error)
        else:
            logger.error("a stream failed", exc_info=run.error)
            run.sink.fail(EngineFailure("The synthesis failed inside the acoustic model."))
    except Exception:  # the boundary of one run: its listener's faults are not the others'
        logger.exception("a listener of audio failed; its run has ended")
