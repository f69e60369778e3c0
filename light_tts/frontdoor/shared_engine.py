"""One engine for all workers of a process manager that knows nothing of it, such as gunicorn.

The first worker to come starts the engine's process, the others connect. What they agree by are files in a private
directory: `start.lock`, held while one of them looks and acts; a lock that the engine's process holds as long as it
lives; and its socket. A worker that is recycled finds the engine again; the engine ends after the last worker has gone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from light_tts import __version__
from light_tts.cpu_affinity import starting_on
from light_tts.errors import ConfigError
from light_tts.frontdoor.server_processes import ENGINE_COMMAND, RESTART_WINDOW_S
from light_tts.frontdoor.start_sheet import StartSheet, to_values
from light_tts.frontdoor.unix_socket import connect_to, listen_at
from light_tts.settings import Settings

logger = logging.getLogger(__name__)


class SharedEngine:
    """Where a worker finds the engine of its master.

    engine_cpus:     processors of the engine's process, or None.
    engine_command:  starts the engine's process.

    Workers share by their parent process and their settings. Raises ConfigError where no private directory can be made.
    """

    def __init__(
        self,
        settings: Settings,
        engine_cpus: frozenset[int] | None = None,
        *,
        engine_command: Sequence[str] = ENGINE_COMMAND,
    ) -> None:
        self._values = to_values(settings)
        self._max_starts = settings.engine.max_restarts + 1
        self._cpus = engine_cpus
        self._command = engine_command
        self._directory = private_directory()
        self._started_s: deque[float] = deque()

    def connect(self) -> socket.socket:
        """A connection to the engine's process, which is started if there is none.

        Raises OSError when it was started too often lately.
        """
        master_pid = os.getppid()
        socket_path = self._directory / f"{self._key(master_pid)}.sock"
        while True:
            with start_lock(self._directory):
                lock_fd = os.open(_lock_path(socket_path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    if _try_lock(lock_fd):
                        self._start(str(socket_path), lock_fd, master_pid)
                    return connect_to(str(socket_path))
                except ConnectionError:
                    ending_fd = os.dup(lock_fd)
                finally:
                    os.close(lock_fd)
            # An engine that ends has closed its door already: the next one begins where it leaves its lock.
            fcntl.flock(ending_fd, fcntl.LOCK_EX)
            os.close(ending_fd)

    def _key(self, master_pid: int) -> str:
        content = [__version__, master_pid, self._values]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def _start(self, path: str, lock_fd: int, master_pid: int) -> None:
        now_s = time.monotonic()
        while self._started_s and self._started_s[0] < now_s - RESTART_WINDOW_S:
            self._started_s.popleft()
        if len(self._started_s) >= self._max_starts:
            raise OSError(f"the speech engine has been started {len(self._started_s)} times and ended each time")
        self._started_s.append(now_s)
        listener = listen_at(path)
        sheet = StartSheet(self._values, path, listener.fileno(), lock_fd, master_pid)
        with starting_on(self._cpus):
            process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, pass_fds=[listener.fileno(), lock_fd], process_group=0
            )
        assert process.stdin is not None
        with process.stdin:
            process.stdin.write(sheet.to_line())
        listener.close()
        logger.info("started the engine's process %d", process.pid)
        threading.Thread(target=process.wait, name="engine's process", daemon=True).start()


def remove_meeting_place(engine_path: str) -> None:
    """Called by an engine's process as its last act: the socket and the lock that it holds."""
    path = Path(engine_path)
    with start_lock(path.parent):
        path.unlink(missing_ok=True)
        _lock_path(path).unlink(missing_ok=True)


def private_directory() -> Path:
    """A directory that this user alone can enter; made if it is missing. Raises ConfigError for one that is not."""
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    directory = Path(base) / f"light-tts-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not directory.is_dir() or directory.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(f"{directory} must be a directory of this user that nobody else can enter; remove it.")
    return directory


@contextmanager
def start_lock(directory: Path) -> Iterator[None]:
    """Whoever holds it is the only one who starts, finds or removes an engine. Held for moments."""
    fd = os.open(directory / "start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _lock_path(socket_path: Path) -> Path:
    return socket_path.with_suffix(".lock")


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
