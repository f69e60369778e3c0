"""Where kernels are compiled ahead: in several processes of their own, or on threads of this one.

Threads wait for each other, since a fourth and more of each compilation holds Python's lock; processes do not, but must
import torch first. So they are started early, for whoever compiles ahead while `compile_processes` lasts.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from queue import PriorityQueue, SimpleQueue
from threading import Event
from typing import NamedTuple

from light_tts.cpu_affinity import usable_cpus
from light_tts.kernels.compile_job import CompileJob
from light_tts.kernels.compile_process import CompileProcess, ProcessLost

logger = logging.getLogger(__name__)

_MOST_THREADS = 12
_FEWEST_PROCESSES, _MOST_PROCESSES = 3, 12
_SHARE_OF_CPUS = 0.75  # that processes get; the others load networks and record meanwhile

_shared: CompilePool | None = None


class CompilePool:
    """Compiles kernels side by side.

    processes:    whose jobs they are; one that ends leaves its share to a thread of this process.
    num_threads:  that compile in this process where there are no processes.
    """

    def __init__(self, processes: list[CompileProcess], num_threads: int) -> None:
        self._processes = processes
        self._closed = Event()
        self._places: SimpleQueue[CompileProcess | None] = SimpleQueue()  # None: a place in this process
        places: list[CompileProcess | None] = [*processes] if processes else [None] * num_threads
        for place in places:
            self._places.put(place)
        self._waiting: PriorityQueue[_Waiting] = PriorityQueue()
        self._numbers = count()
        self._threads = ThreadPoolExecutor(len(places), thread_name_prefix="compile")

    def submit(self, job: CompileJob, *, is_urgent: bool) -> Future[None]:
        """Begin to compile; the result raises what Triton raises. Raises RuntimeError when the pool has been closed.

        is_urgent:  somebody waits already: before all that nobody waits for.
        """
        done: Future[None] = Future()
        self._waiting.put(_Waiting(not is_urgent, next(self._numbers), job, done))
        self._threads.submit(self._compile_next)
        return done

    def close(self) -> None:
        """Compile nothing more; what is left then is compiled when it is launched."""
        self._closed.set()
        for process in self._processes:
            process.kill()
        self._threads.shutdown()
        for process in self._processes:
            process.close()

    def _compile_next(self) -> None:
        _, _, job, done = self._waiting.get()
        try:
            self._compile(job)
        except BaseException as error:  # whatever it is, somebody waits for it
            done.set_exception(error)
        else:
            done.set_result(None)

    def _compile(self, job: CompileJob) -> None:
        if self._closed.is_set():
            return
        place = self._places.get()
        is_done = False
        try:
            is_done = place is not None and place.compile(job)
        except ProcessLost as error:
            if self._closed.is_set():
                return
            logger.warning("%s; its share of the kernels is compiled in this process", error)
            place = None
        finally:
            self._places.put(place)
        if not is_done:
            job.compile_here()


class _Waiting(NamedTuple):
    """What comes first in the order of tuples comes first."""

    can_wait: bool
    number: int
    job: CompileJob
    done: Future[None]


def why_not() -> str | None:
    """Why kernels cannot be compiled ahead on this machine; None when they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    # Where Triton has this itself, its compiler is made for several threads. Its own way launches, so it is not used.
    if importlib.util.find_spec("triton.runtime._async_compile") is None:
        return "Triton is older than 3.5"
    if num_threads() < 2:
        return "there is one processor"
    from triton import knobs

    return "kernels are interpreted" if knobs.runtime.interpret else None


def num_threads() -> int:
    """Threads that compile where there are no processes."""
    return min(_MOST_THREADS, usable_cpus())


def shared_pool() -> CompilePool | None:
    """That of the `compile_processes` of the moment."""
    return _shared


@contextmanager
def compile_processes(start: Callable[[], CompileProcess] = CompileProcess) -> Iterator[None]:
    """Compile in processes meanwhile, where there are processors enough. What is not compiled at the end is given up.

    start:  starts a process.
    """
    global _shared
    processes = [] if _shared is not None else _started(start)
    if not processes:
        yield
        return
    pool = _shared = CompilePool(processes, 0)
    try:
        yield
    finally:
        _shared = None
        pool.close()


def _started(start: Callable[[], CompileProcess]) -> list[CompileProcess]:
    processes: list[CompileProcess] = []
    wanted = min(_MOST_PROCESSES, int(_SHARE_OF_CPUS * usable_cpus()))
    try:
        if wanted < _FEWEST_PROCESSES or why_not() is not None:
            return []
        while len(processes) < wanted:
            processes.append(start())
    except (OSError, ImportError) as error:
        logger.warning("%d of %d processes that compile kernels are there: %s", len(processes), wanted, error)
    return processes
