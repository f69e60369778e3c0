"""Triton kernels compiled on several threads before they are wanted: a cold start then does not wait for one core.

Triton compiles a kernel when it is launched, one after the other. Here a stage computes once what it will compute, and
what would be compiled is collected instead, by Triton's hook in front of its compiler; the results land in Triton's
cache on disk, where the launches that follow find them.

Nothing depends on it: what is not compiled here is compiled when it is launched.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from light_tts.events import NO_PROGRESS, StartProgress

logger = logging.getLogger(__name__)

_MOST_THREADS = 12  # a fourth of the work holds Python's lock: more threads would only wait for it

_lock = threading.Lock()  # of the hook, which is the whole process's
_num_users = 0
_former_hook: Callable[..., Any] | None = None
_collector: ContextVar[_Collector | None] = ContextVar("kernels_to_compile", default=None)  # of the present thread


def compile_ahead(what: str, compute: Callable[[], object], progress: StartProgress = NO_PROGRESS) -> None:
    """Compile the Triton kernels that `compute` launches, side by side. Does nothing where that cannot be done.

    what:      whose kernels, for log and progress.
    compute:   is called at most once, on this thread, and what it raises ends in the log. Kernels that have not been
               compiled yet are not launched in it, so that their results are whatever lay in memory: nothing may use
               such a result as an index, or read it on the host.
    progress:  is told, on this thread, of each kernel.
    """
    started_s = time.perf_counter()
    try:
        reason = why_not()
        if reason is not None:
            logger.debug("kernels of the %s are compiled one after the other: %s", what, reason)
            return
        jobs = _compiled(what, compute, progress)
    # Whatever Triton says, in a version that nobody has tried: the launches to come compile as they always did.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        logger.warning("kernels of the %s are compiled one after the other: %s", what, reason)
        return
    failed = [cause for job in jobs if (cause := job.exception()) is not None]
    if failed:
        logger.warning("%d kernels of the %s do not compile; one says: %s", len(failed), what, failed[0])
    elapsed_s = time.perf_counter() - started_s
    logger.info("%d kernels of the %s compiled, or found compiled, in %.1f s", len(jobs), what, elapsed_s)


def why_not() -> str | None:
    """Why kernels cannot be compiled ahead on this machine; None when they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    # Where Triton has this itself, its compiler is made for several threads. Its own way launches, so it is not used.
    if importlib.util.find_spec("triton.runtime._async_compile") is None:
        return "Triton is older than 3.5"
    if _num_threads() < 2:
        return "there is one processor"
    from triton import knobs

    return "kernels are interpreted" if knobs.runtime.interpret else None


def _num_threads() -> int:
    num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST_THREADS, num_cpus)


def _compiled(what: str, compute: Callable[[], object], progress: StartProgress) -> list[Future[Any]]:
    """Compute, and compile what is met; the jobs are done."""
    from triton.runtime import driver

    pool = ThreadPoolExecutor(_num_threads(), thread_name_prefix="compile")
    try:
        collector = _Collector(pool, driver.active.get_current_target())
        with _hooked():
            token = _collector.set(collector)
            try:
                compute()
            finally:
                _collector.reset(token)
        jobs = list(collector.jobs.values())
        for done, _ in enumerate(as_completed(jobs), 1):
            progress.compiled(what, done, len(jobs))
        return jobs
    finally:
        pool.shutdown(cancel_futures=True)  # some are left only when the start is broken off


class _Collector:
    """Begins to compile what one thread would launch, each kernel once."""

    def __init__(self, pool: ThreadPoolExecutor, target: Any) -> None:
        self._pool, self._target = pool, target
        self.jobs: dict[Hashable, Future[Any]] = {}

    def take(self, kernel: Any, launch: dict[str, Any]) -> None:
        """kernel: Triton's function; launch: what its compiler must know of one launch, as the hook gets it."""
        import triton
        from triton.compiler import ASTSource

        key = kernel, launch["key"]
        if key in self.jobs:
            return
        source = ASTSource(kernel, launch["signature"], launch["constants"], launch["configs"][0])
        # JSON has no tuples.
        options = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in json.loads(launch["specialization_data"])["options"].items()
        }
        self.jobs[key] = self._pool.submit(triton.compile, source, target=self._target, options=options)


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
