"""The process that owns the engine: loads it, serves front ends, ends when told to or when nobody needs it any more."""

from __future__ import annotations

import logging
import os
import queue
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable

from light_tts.cli import run_command
from light_tts.errors import LightTTSError
from light_tts.frontdoor.engine_house import EngineHouse
from light_tts.frontdoor.shared_engine import remove_meeting_place
from light_tts.frontdoor.start_sheet import (
    StartSheet,
    from_values,
    read_sheet,
    when_starter_has_gone,
    when_told_to_end,
)
from light_tts.logs import configure_logging
from light_tts.server.app import new_metrics
from light_tts.server.engine_loading import EngineLoading, Load, load_engine
from light_tts.settings import Settings

logger = logging.getLogger(__name__)

# How long an engine without any front end waits for the next: a recycled worker is back within it.
LINGER_S = 10.0


def main(load: Load = load_engine) -> int:
    """`python -m light_tts.frontdoor.engine_process`, with a StartSheet on standard input; returns the exit status."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # a wish for a profile, until there is something to record
    sheet = read_sheet()
    settings = from_values(sheet.settings)
    configure_logging(settings.server.log_level, settings.server.log_format, settings.server.log_dir)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the starter decides what it means
    return run_command(lambda: _run(sheet, settings, load))


def _run(sheet: StartSheet, settings: Settings, load: Load) -> int:
    ends: queue.SimpleQueue[str] = queue.SimpleQueue()
    when_told_to_end(lambda: ends.put("it was told to"))
    house = EngineHouse(socket.socket(fileno=sheet.listener_fd), new_metrics())
    if sheet.master_pid is None:
        when_starter_has_gone(lambda: ends.put("the server has gone"))
    else:
        desertion = _Desertion(house, sheet.master_pid, ends.put)
        house.on_deserted = desertion.begin
        desertion.begin()  # the worker that started all this may be gone already
    house.start()

    def refuse(error: LightTTSError) -> None:
        house.refuse(error)
        ends.put("it could not be loaded")

    loading = EngineLoading(settings, house.metrics.engine, on_ready=house.welcome, on_failed=refuse, load=load)
    loading.start()
    logger.info("the engine's process ends: %s", ends.get())
    try:
        loading.close()
    finally:
        house.close()
        if sheet.master_pid is not None:
            remove_meeting_place(sheet.engine_path)
    return 0


class _Desertion:
    """Ends a shared engine that nobody uses: at once when the master has gone, else after a while.

    A master that replaces its only worker leaves the engine alone for a moment, which is not the end.
    """

    def __init__(self, house: EngineHouse, master_pid: int, end: Callable[[str], None]) -> None:
        self._house = house
        self._end = end
        self._master_fd = _open_process(master_pid)

    def begin(self) -> None:
        """The last front end has gone."""
        threading.Thread(target=self._wait, name="desertion", daemon=True).start()

    def _wait(self) -> None:
        if self._master_fd is not None:
            select.select([self._master_fd], [], [], LINGER_S)
        else:
            threading.Event().wait(LINGER_S)
        if self._house.is_deserted:
            self._end("no front end is left")


def _open_process(pid: int) -> int | None:
    """A file that becomes readable when the process ends; None where there is no such thing, or no such process."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


if __name__ == "__main__":
    sys.exit(main())
