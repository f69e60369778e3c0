"""What every handler of one server shares."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection

from light_tts.errors import NotReady
from light_tts.server.request_observer import RequestObserver
from light_tts.server.request_record import RequestRecord

if TYPE_CHECKING:
    from light_tts.settings import Settings
    from light_tts.speech_engine import SpeechEngine


@dataclass
class ServerState:
    """One server: its settings and, once there is one, its engine.

    engine:          None while it loads. Written once, by the thread that loads.
    created_at:      Unix time of the start.
    observer:        counts the requests. Set by `create_app`.
    sessions:        tasks of the WebSocket sessions that are open.
    stops:           of servers for other protocols: take nothing new, end within so many seconds. May be called twice.
    """

    settings: Settings
    engine: SpeechEngine | None = None
    created_at: int = field(default_factory=lambda: int(time.time()))
    observer: RequestObserver = field(init=False)
    sessions: set[asyncio.Task[Any]] = field(default_factory=set)
    stops: list[Callable[[float], Awaitable[object]]] = field(default_factory=list)

    def health(self) -> dict[str, Any]:
        """The engine's own health, or the reason why there is none. Blocks as the engine's does."""
        if self.engine is None:
            return {"ready": False, "error": None, "running": 0, "queued": 0}
        return self.engine.health()

    def gpu_memory(self) -> dict[str, Any] | None:
        """Bytes in use on the device; None on CPU and while the engine loads. Blocks as the engine's does."""
        return None if self.engine is None else self.engine.gpu_memory()

    def ready_engine(self) -> SpeechEngine:
        """The engine. Raises NotReady while it loads or when it has failed."""
        if self.engine is None:
            raise NotReady("The model is still loading; try again shortly.")
        if not self.engine.is_ready:
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
