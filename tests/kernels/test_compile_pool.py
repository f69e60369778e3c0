"""Who compiles what, and when: processes and jobs here only pretend."""

import logging
import threading

import pytest

from light_tts.kernels import compile_pool
from light_tts.kernels.compile_pool import CompilePool, compile_processes, shared_pool
from light_tts.kernels.compile_process import ProcessLost


class Job:
    """Notes that it was compiled in this process."""

    def __init__(self, name="a kernel", error=None):
        self.name, self.error, self.was_compiled_here = name, error, False

    def compile_here(self):
        self.was_compiled_here = True
        if self.error is not None:
            raise self.error


class Process:
    """Compiles one job after the other, once `go` is set, unless it is lost.

    can_compile:  what it answers.
    """

    def __init__(self, can_compile=True, is_lost=False):
        self.can_compile, self.is_lost = can_compile, is_lost
        self.began, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.compiled, self.calls = [], []

    def compile(self, job):
        self.began.set()
        assert self.go.wait(10)
        if self.is_lost:
            raise ProcessLost("a process has ended (9)")
        self.compiled.append(job.name)
        return self.can_compile

    def kill(self):
        self.calls.append("kill")
        self.is_lost = True
        self.go.set()

    def close(self):
        self.calls.append("close")


def test_processes_compile_and_end_with_the_pool():
    processes, jobs = [Process(), Process()], [Job() for _ in range(8)]
    pool = CompilePool(processes, num_threads=0)
    for done in [pool.submit(job, is_urgent=False) for job in jobs]:
        done.result(10)
    pool.close()
    assert sum(len(process.compiled) for process in processes) == 8
    assert not any(job.was_compiled_here for job in jobs)
    assert all(process.calls == ["kill", "close"] for process in processes)


def test_what_somebody_waits_for_comes_first():
    process = Process()
    process.go.clear()
    pool = CompilePool([process], num_threads=0)
    jobs = [pool.submit(Job("the first"), is_urgent=False)]
    assert process.began.wait(10)
    jobs += [pool.submit(Job(name), is_urgent=False) for name in ("flow 1", "flow 2")]
    jobs += [pool.submit(Job(name), is_urgent=True) for name in ("steps 1", "steps 2")]
    process.go.set()
    for done in jobs:
        done.result(10)
    pool.close()
    assert process.compiled == ["the first", "steps 1", "steps 2", "flow 1", "flow 2"]


def test_a_process_that_ends_leaves_its_jobs_to_this_one(caplog):
    process, jobs = Process(is_lost=True), [Job(), Job(), Job()]
    pool = CompilePool([process], num_threads=0)
    for done in [pool.submit(job, is_urgent=False) for job in jobs]:
        done.result(10)
    pool.close()
    assert all(job.was_compiled_here for job in jobs)
    assert caplog.text.count("its share of the kernels is compiled in this process") == 1


def test_what_a_process_cannot_compile_is_tried_here_and_fails_here():
    pool = CompilePool([Process(can_compile=False)], num_threads=0)
    good, bad = Job(), Job(error=RuntimeError("no such instruction"))
    pool.submit(good, is_urgent=False).result(10)
    assert good.was_compiled_here
    with pytest.raises(RuntimeError, match="no such instruction"):
        pool.submit(bad, is_urgent=False).result(10)
    pool.close()


def test_threads_compile_where_there_are_no_processes():
    pool, job = CompilePool([], num_threads=2), Job()
    pool.submit(job, is_urgent=True).result(10)
    pool.close()
    assert job.was_compiled_here
    with pytest.raises(RuntimeError):
        pool.submit(Job(), is_urgent=True)


def test_a_pool_that_is_closed_lets_nobody_wait(caplog):
    process, jobs = Process(), [Job() for _ in range(4)]
    process.go.clear()
    pool = CompilePool([process], num_threads=0)
    results = [pool.submit(job, is_urgent=False) for job in jobs]
    assert process.began.wait(10)
    pool.close()
    for done in results:
        done.result(10)
    assert process.compiled == []
    assert not any(job.was_compiled_here for job in jobs)
    assert not caplog.text


@pytest.fixture
def can_compile(monkeypatch):
    """As on a machine of eight processors on which kernels can be compiled."""
    monkeypatch.setattr(compile_pool, "why_not", lambda: None)
    monkeypatch.setattr(compile_pool, "usable_cpus", lambda: 8)


def test_there_is_one_pool_of_processes_at_a_time(can_compile):
    started = []

    def start():
        started.append(Process())
        return started[-1]

    with compile_processes(start):
        pool = shared_pool()
        assert pool is not None
        with compile_processes(start):
            assert shared_pool() is pool
        assert shared_pool() is pool
        assert len(started) == 6
        assert not any(process.calls for process in started)
    assert shared_pool() is None
    assert all(process.calls == ["kill", "close"] for process in started)


def test_processes_end_when_a_start_fails(can_compile):
    process = Process()
    with pytest.raises(ValueError, match="a broken checkpoint"), compile_processes(lambda: process):
        raise ValueError("a broken checkpoint")
    assert "close" in process.calls


@pytest.mark.parametrize("cpus", [1, 2, 3])
def test_few_processors_start_none(can_compile, monkeypatch, cpus):
    monkeypatch.setattr(compile_pool, "usable_cpus", lambda: cpus)
    with compile_processes(lambda: pytest.fail("was started")):
        assert shared_pool() is None


def test_nothing_is_started_where_nothing_is_compiled_ahead(can_compile, monkeypatch):
    monkeypatch.setattr(compile_pool, "why_not", lambda: "a reason")
    with compile_processes(lambda: pytest.fail("was started")):
        assert shared_pool() is None


def test_without_processes_threads_do_it_and_the_log_says_so(can_compile, caplog):
    def start():
        raise OSError("Resource temporarily unavailable")

    with caplog.at_level(logging.WARNING), compile_processes(start):
        assert shared_pool() is None
    assert "0 of 6 processes that compile kernels are there: Resource temporarily unavailable" in caplog.text
