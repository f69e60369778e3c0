"""The process around the application: listen, load, serve, drain. `light-tts serve` calls `run`."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence

from light_tts.cpu_affinity import bind, chosen_cpus, describe
from light_tts.errors import LightTTSError
from light_tts.logs import configure_logging
from light_tts.server.app import create_app
from light_tts.server.draining_server import DrainingServer
from light_tts.server.engine_loading import EngineLoading
from light_tts.server.grpc_api import check_grpc
from light_tts.server.health_monitor import HealthMonitor
from light_tts.server.listening import listen, server_of
from light_tts.server.state import ServerState
from light_tts.settings import Settings
from light_tts.speech_engine import SpeechEngine

logger = logging.getLogger(__name__)

ILLNESS_STATUS = 1
ILLNESS_GRACE_S = 10.0


def run(settings: Settings, *, notes: Sequence[str] = ()) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status. notes: sentences for the log of the start.

    The port is taken before the model loads; while it loads every request but health answers NOT_READY. After SIGTERM
    no connection is accepted and running requests have `drain_timeout_s` to end; a second signal ends at once.
    Raises ConfigError for an address that cannot be listened on, and what TTSEngine.load raises.
    """
    configure_logging(settings.server.log_level, settings.server.log_format, settings.server.log_dir)
    for note in notes:
        logger.info("%s", note)
    cpus = chosen_cpus(settings.server)
    if settings.server.grpc_port:
        check_grpc()
        listen(settings.server.host, settings.server.grpc_port).close()
    if settings.server.http_workers > 1:
        from light_tts.frontdoor.server_processes import run_processes

        return run_processes(settings, cpus)
    if cpus is not None:
        bind(cpus)
        logger.info("processors: %s", describe(cpus))
    listener = listen(settings.server.host, settings.server.port)
    app = create_app(None, settings)
    state: ServerState = app.state.server
    server = server_of(app, settings)

    def take(engine: SpeechEngine) -> None:
        state.engine = engine

    def stop(_: LightTTSError) -> None:
        server.should_exit = True

    loading = EngineLoading(settings, app.state.server.observer.engine, on_ready=take, on_failed=stop)
    illness = _Illness(server)
    monitor = HealthMonitor(
        settings.server.host,
        settings.server.port,
        interval_s=settings.server.health_check_interval_s,
        on_illness=illness.end,
    )
    loading.start()
    if settings.server.health_monitor:
        monitor.start()
    try:
        server.run(sockets=[listener])
    finally:
        monitor.close()
        listener.close()
        state.engine = None
        loading.close()
    return illness.exit_status


def main() -> int:
    """The entry point of `python -m light_tts.server.api_server`."""
    from light_tts.compat.launch import launch
    from light_tts.compat.programs import API_SERVER

    return launch(API_SERVER)


class _Illness:
    """Ends a server whose health checks fail, so that whoever watches the process starts it again."""

    def __init__(self, server: DrainingServer) -> None:
        self.exit_status = 0
        self._server = server

    def end(self) -> None:
        """On the monitor's thread."""
        if self._server.should_exit:
            return
        logger.error("the server stays ill and ends with status %d", ILLNESS_STATUS)
        self.exit_status = ILLNESS_STATUS
        self._server.hurry()
        # A process whose threads hang cannot end in order.
        backstop = threading.Timer(ILLNESS_GRACE_S, os._exit, [ILLNESS_STATUS])
        backstop.daemon = True
        backstop.start()


if __name__ == "__main__":
    sys.exit(main())
