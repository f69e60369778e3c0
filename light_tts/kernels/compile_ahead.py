"""Triton kernels compiled side by side before they are wanted: a cold start then does not wait for one core.

Triton compiles a kernel when it is launched, one after the other. Here a stage computes once what it will compute, and
what would be compiled is collected instead, by Triton's hook in front of its compiler; the results land in Triton's
cache on disk, where the launches that follow find them.

Nothing depends on it: what is not compiled here is compiled when it is launched.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from light_tts.events import NO_PROGRESS, StartProgress
from light_tts.kernels.compile_job import CompileJob
from light_tts.kernels.compile_pool import CompilePool, num_threads, shared_pool, why_not

logger = logging.getLogger(__name__)

_lock = threading.Lock()  # of the hook, which is the whole process's
_num_users = 0
_former_hook: Callable[..., Any] | None = None
_collector: ContextVar[_Collector | None] = ContextVar("kernels_to_compile", default=None)  # of the present thread


def compile_ahead(what: str, compute: Callable[[], object], progress: StartProgress = NO_PROGRESS) -> None:
    """Compile the Triton kernels that `compute` launches, side by side; see `begin_compiling`.

    progress:  is told, on this thread, of each kernel.
    """
    begin_compiling(what, compute, is_urgent=True).wait(progress)


def begin_compiling(what: str, compute: Callable[[], object], *, is_urgent: bool = False) -> KernelsAhead:
    """Begin to compile the Triton kernels that `compute` launches. Does nothing where that cannot be done.

    what:       whose kernels, for log and progress.
    compute:    is called at most once, on this thread, and what it raises ends in the log. Kernels that have not been
                compiled yet are not launched in it, so that their results are whatever lay in memory: nothing may use
                such a result as an index, or read it on the host.
    is_urgent:  the caller is going to wait at once: before kernels for which nobody waits.
    """
    kernels = KernelsAhead(what)
    try:
        reason = why_not()
        if reason is None:
            kernels.begin(compute, is_urgent=is_urgent)
        else:
            logger.debug("kernels of the %s are compiled one after the other: %s", what, reason)
    # Whatever Triton says, in a version that nobody has tried: the launches to come compile as they always did.
    except Exception as error:
        kernels.give_up(error)
    return kernels


class KernelsAhead:
    """Kernels of one stage that are being compiled.

    what:  the stage, for log and progress.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._meeting_s = 0.0
        self._jobs: list[Future[None]] | None = None  # None: nothing is being compiled
        self._own_pool: CompilePool | None = None

    def begin(self, compute: Callable[[], object], *, is_urgent: bool) -> None:
        """Compute, and begin to compile what is met. Raises what `compute` raises."""
        from triton.runtime import driver

        started_s = time.perf_counter()
        pool = shared_pool()
        if pool is None:
            pool = self._own_pool = CompilePool([], num_threads())
        collector = _Collector(pool, driver.active.get_current_target(), is_urgent)
        with _hooked():
            token = _collector.set(collector)
            try:
                compute()
            finally:
                _collector.reset(token)
        self._jobs = list(collector.jobs.values())
        self._meeting_s = time.perf_counter() - started_s

    def wait(self, progress: StartProgress = NO_PROGRESS) -> None:
        """Return when all that can be compiled is. A second time it returns at once.

        progress:  is told, on this thread, of each kernel.
        """
        jobs, self._jobs = self._jobs, None
        if jobs is None:
            return
        began_s = time.perf_counter()
        try:
            for done, _ in enumerate(as_completed(jobs), 1):
                progress.compiled(self._what, done, len(jobs))
        finally:
            self._end()
        failed = [cause for job in jobs if (cause := job.exception()) is not None]
        if failed:
            logger.warning("%d kernels of the %s do not compile; one says: %s", len(failed), self._what, failed[0])
        logger.info(
            "%d kernels of the %s compiled, or found compiled; %.1f s to meet them, %.1f s of waiting",
            len(jobs), self._what, self._meeting_s, time.perf_counter() - began_s,
        )  # fmt: skip

    def give_up(self, error: Exception) -> None:
        """Compile no more of them; says why in the log."""
        reason = f"{type(error).__name__}: {error}"
        logger.warning("kernels of the %s are compiled one after the other: %s", self._what, reason)
        self._end()

    def _end(self) -> None:
        if self._own_pool is not None:
            self._own_pool.close()  # some are left only when the start is broken off


class _Collector:
    """Begins to compile what one thread would launch, each kernel once."""

    def __init__(self, pool: CompilePool, target: Any, is_urgent: bool) -> None:
        self._pool, self._target, self._is_urgent = pool, target, is_urgent
        self.jobs: dict[Hashable, Future[None]] = {}

    def take(self, kernel: Any, launch: dict[str, Any]) -> None:
        """kernel: Triton's function; launch: what its compiler must know of one launch, as the hook gets it."""
        key = kernel, launch["key"]
        if key not in self.jobs:
            self.jobs[key] = self._pool.submit(CompileJob(kernel, launch, self._target), is_urgent=self._is_urgent)


def _hook(**about: Any) -> Any:
    """Triton's `jit_cache_hook`: asked before a kernel is compiled for a launch; True: do neither."""
    collector = _collector.get()
    if collector is None:
        former = _former_hook
        return former(**about) if former is not None else False
    collector.take(about["fn"].jit_function, about["compile"])
    return True


@contextmanager
def _hooked() -> Iterator[None]:
    """The hook is in place while any thread needs it."""
    global _num_users, _former_hook
    from triton import knobs

    with _lock:
        if _num_users == 0:
            _former_hook, knobs.runtime.jit_cache_hook = knobs.runtime.jit_cache_hook, _hook
        _num_users += 1
    try:
        yield
    finally:
        with _lock:
            _num_users -= 1
            if _num_users == 0:
                knobs.runtime.jit_cache_hook, _former_hook = _former_hook, None
