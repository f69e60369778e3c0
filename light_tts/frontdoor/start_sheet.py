"""What a process of the server is told by the one that starts it: one line of JSON on its standard input.

The pipe stays open as long as the starter lives, so that its end is noticed.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from light_tts.settings import Settings
from light_tts.settings_loader import load_settings
from light_tts.settings_spec import setting_specs

# Not through `sys.stdin`, whose lock a waiting thread would hold when the process ends.
_STDIN_FD = 0
_READ_BYTES = 65536


@dataclass(frozen=True)
class StartSheet:
    """One process's part.

    settings:      of the whole server, as `to_values` gives them.
    engine_path:   of the Unix socket that front ends connect to.
    listener_fd:   an inherited listening socket: that one, or a front end's own TCP socket.
    lock_fd:       an inherited file whose lock is held as long as this process lives; None: none.
    master_pid:    of a process to end with, once no front end is left; None: ends when standard input does.
    """

    settings: dict[str, object]
    engine_path: str
    listener_fd: int
    lock_fd: int | None = None
    master_pid: int | None = None

    def to_line(self) -> bytes:
        """As it is written to the new process."""
        return json.dumps(asdict(self)).encode() + b"\n"


def read_sheet() -> StartSheet:
    """The sheet on this process's standard input. Signals that its starter held back come through from here on."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1})
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(_STDIN_FD, _READ_BYTES) or b"\n"
    return StartSheet(**json.loads(line))


def when_starter_has_gone(call: Callable[[], None]) -> None:
    """Call back, on a thread, when the other end of standard input is closed."""

    def wait() -> None:
        while os.read(_STDIN_FD, _READ_BYTES):
            pass
        call()

    threading.Thread(target=wait, name="starter", daemon=True).start()


def when_told_to_end(call: Callable[[], None]) -> None:
    """Call back, on a thread, when SIGTERM comes. Before other threads are started.

    A handler would not do: it may come just before the main thread begins to wait, and be run only afterwards.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        call()

    threading.Thread(target=wait, name="signals", daemon=True).start()


def to_values(settings: Settings) -> dict[str, object]:
    """Setting name -> value that JSON can hold."""
    values: dict[str, object] = {}
    for name, spec in setting_specs().items():
        value = getattr(getattr(settings, spec.branch), name)
        values[name] = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
    return values


def from_values(values: dict[str, object]) -> Settings:
    """The settings again."""
    return load_settings(values, environment={}).settings
