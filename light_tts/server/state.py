"""What every handler of one server shares."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection

from light_tts.metrics import Metrics
from light_tts.server.engine_metrics import EngineMetrics
from light_tts.server.errors import NotReady
from light_tts.server.request_record import RequestRecord

if TYPE_CHECKING:
    from light_tts.engine import TTSEngine
    from light_tts.settings import Settings


@dataclass
class ServerState:
    """One server: its settings, its metrics and, once loaded, its engine.

    engine:          None while it loads. Written once, by the thread that loads.
    created_at:      Unix time of the start.
    engine_metrics:  listens to the engine.
    """

    settings: Settings
    metrics: Metrics
    engine: TTSEngine | None = None
    created_at: int = field(default_factory=lambda: int(time.time()))
    engine_metrics: EngineMetrics = field(init=False)

    def __post_init__(self) -> None:
        self.engine_metrics = EngineMetrics(self.metrics)

    def health(self) -> dict[str, Any]:
        """The engine's own health, or the reason why there is none."""
        if self.engine is None:
            return {"ready": False, "error": None, "running": 0, "queued": 0}
        return self.engine.health()

    def gpu_memory(self) -> dict[str, Any] | None:
        """Bytes in use on the device; None on CPU and while the engine loads."""
        return None if self.engine is None else self.engine.gpu_memory()

    def ready_engine(self) -> TTSEngine:
        """The engine. Raises NotReady while it loads or when it has failed."""
        if self.engine is None:
            raise NotReady("The model is still loading; try again shortly.")
        if not self.engine.health()["ready"]:
            raise NotReady("The speech engine is not ready; /health says why.")
        return self.engine


def server_state(connection: HTTPConnection) -> ServerState:
    """The server this request came to."""
    state = connection.app.state.server
    assert isinstance(state, ServerState)
    return state


def request_record(connection: HTTPConnection) -> RequestRecord:
    """What is known so far about this request."""
    record = connection.scope["state"]["record"]
    assert isinstance(record, RequestRecord)
    return record
