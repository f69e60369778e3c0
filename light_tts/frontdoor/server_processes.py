"""`light-tts serve --http-workers N`: starts the engine's process and N front ends, and keeps them running.

This process listens before anything is loaded, restarts what dies, passes on the wish to stop and waits for the end.
It answers no request and loads nothing heavy.
"""

from __future__ import annotations

import logging
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from light_tts.cpu_affinity import describe, divide, starting_on
from light_tts.frontdoor.start_sheet import StartSheet, to_values
from light_tts.frontdoor.unix_socket import listen_at
from light_tts.server.health_monitor import HealthMonitor
from light_tts.server.listening import listen_for
from light_tts.settings import Settings

logger = logging.getLogger(__name__)

ENGINE_COMMAND = (sys.executable, "-m", "light_tts.frontdoor.engine_process")
FRONT_COMMAND = (sys.executable, "-m", "light_tts.frontdoor.front_process")
STOPPING = frozenset({signal.SIGTERM, signal.SIGINT})
PROFILING = signal.SIGUSR1
GAVE_UP = (1, 2)  # statuses of an engine that ended by itself, having said why: another try would end the same
RESTART_WINDOW_S = 600.0
CLOSING_S = 15.0  # for an engine to end after its last request, and for front ends beyond the drain


def run_processes(
    settings: Settings, cpus: frozenset[int] | None = None, *, engine_command: Sequence[str] = ENGINE_COMMAND
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status. A second signal ends everything at once.

    cpus:            processors for all processes together; None: as inherited.
    engine_command:  starts the engine's process.

    Raises ConfigError for an address that cannot be listened on.
    """
    listeners = listen_for(settings.server.host, settings.server.port, settings.server.http_workers)
    directory = Path(tempfile.mkdtemp(prefix="light-tts-"))  # mode 0700
    try:
        return _Processes(settings, cpus, listeners, directory, engine_command).run()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(eq=False)
class _Child:
    """One process to keep running.

    share:  processors, or None.
    """

    name: str
    command: Sequence[str]
    listener: socket.socket
    share: frozenset[int] | None
    process: subprocess.Popen[bytes] | None = None
    ended_s: deque[float] = field(default_factory=deque)  # when it ended unasked, lately

    @property
    def is_running(self) -> bool:
        return self.process is not None

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)


class _Processes:
    """The story of all processes, told on the main thread: what happens comes as a child that ended, or a signal."""

    def __init__(
        self,
        settings: Settings,
        cpus: frozenset[int] | None,
        listeners: Sequence[socket.socket],
        directory: Path,
        engine_command: Sequence[str],
    ) -> None:
        self._settings = settings
        self._values = to_values(settings)
        self._engine_path = str(directory / "engine")
        engine_listener = listen_at(self._engine_path)
        engine_cpus = front_cpus = None
        if cpus is not None:
            engine_cpus, front_cpus = divide(cpus, len(listeners))
            logger.info("processors: engine %s, front ends %s", describe(engine_cpus), describe(front_cpus))
        self._engine = _Child("engine", engine_command, engine_listener, engine_cpus)
        self._fronts = [
            _Child(f"front end {number}", FRONT_COMMAND, listener, front_cpus)
            for number, listener in enumerate(listeners)
        ]
        self._events: queue.SimpleQueue[_Child | int] = queue.SimpleQueue()
        self._status = 0
        self._is_stopping = False
        self._deadline_s: float | None = None

    def run(self) -> int:
        monitor = HealthMonitor(
            self._settings.server.host,
            self._fronts[0].listener.getsockname()[1],
            interval_s=self._settings.server.health_check_interval_s,
            on_illness=lambda: self._events.put(signal.SIGKILL),
        )
        # Waited for on a thread: a handler may come just before this one begins to wait, and be run only afterwards.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING | {PROFILING})
        threading.Thread(target=self._wait_for_signals, name="signals", daemon=True).start()
        for child in (self._engine, *self._fronts):
            self._start(child)
        if self._settings.server.health_monitor:
            monitor.start()
        while self._engine.is_running or any(front.is_running for front in self._fronts):
            self._handle(self._next_event())
            if self._is_stopping:
                monitor.close()
        return self._status

    def _next_event(self) -> _Child | int:
        if self._deadline_s is None:
            return self._events.get()
        try:
            return self._events.get(timeout=max(0.0, self._deadline_s - time.monotonic()))
        except queue.Empty:
            logger.error("the processes do not end in time and are killed")
            return signal.SIGKILL

    def _handle(self, event: _Child | int) -> None:
        if isinstance(event, _Child):
            self._ended(event)
        elif event == signal.SIGKILL:
            self._stop(status=1)
            self._kill()
        elif event == PROFILING:
            self._profile()
        elif self._is_stopping:
            self._kill()
        else:
            logger.info("stopping: no new connections; running requests have %g s", self._drain_s)
            self._stop(status=0)

    @property
    def _drain_s(self) -> float:
        return self._settings.server.drain_timeout_s

    def _wait_for_signals(self) -> None:
        while True:
            self._events.put(signal.sigwait(STOPPING | {PROFILING}))

    # children

    def _start(self, child: _Child) -> None:
        sheet = StartSheet(self._values, self._engine_path, child.listener.fileno())
        # A group of its own: an interrupt from the terminal is this process's to pass on.
        with starting_on(child.share):
            child.process = subprocess.Popen(
                child.command, stdin=subprocess.PIPE, pass_fds=[child.listener.fileno()], process_group=0
            )
        assert child.process.stdin is not None
        try:
            child.process.stdin.write(sheet.to_line())
            child.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended already, which is told by the next line
        threading.Thread(target=self._wait_for, args=(child, child.process), name=child.name, daemon=True).start()

    def _wait_for(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._events.put(child)

    def _ended(self, child: _Child) -> None:
        process, child.process = child.process, None
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        if self._is_stopping:
            if not any(front.is_running for front in self._fronts):
                self._engine.signal(signal.SIGTERM)
            return
        status = process.returncode
        if child is self._engine and status in GAVE_UP:
            self._stop(status)
            return
        now_s = time.monotonic()
        while child.ended_s and child.ended_s[0] < now_s - RESTART_WINDOW_S:
            child.ended_s.popleft()
        if len(child.ended_s) >= self._settings.engine.max_restarts:
            logger.error("the %s has ended (%s); it is not started again", child.name, _described(status))
            self._stop(status=1)
            return
        child.ended_s.append(now_s)
        logger.error("the %s has ended (%s) and is started again", child.name, _described(status))
        self._start(child)

    def _stop(self, status: int) -> None:
        """Have the front ends finish; the engine follows when they have."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._status = status
        self._deadline_s = time.monotonic() + self._drain_s + CLOSING_S
        for front in self._fronts:
            front.listener.close()  # else connections would still be put in its queue
            front.signal(signal.SIGTERM)
        if not any(front.is_running for front in self._fronts):
            self._engine.signal(signal.SIGTERM)

    def _profile(self) -> None:
        """Pass the wish on to the engine's process."""
        if self._settings.server.profile_dir is None:
            logger.warning("SIGUSR1 asks for a profile, but profile_dir is not set")
        else:
            self._engine.signal(PROFILING)

    def _kill(self) -> None:
        self._deadline_s = None
        for child in (self._engine, *self._fronts):
            child.signal(signal.SIGKILL)


def _described(status: int) -> str:
    return f"status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
