"""Requests of a front end are counted where the engine is, so that any front end can show all of them."""

from __future__ import annotations

from light_tts.frontdoor.messages import AskMetrics, Began, Ended
from light_tts.frontdoor.remote_engine import HEALTH_TIMEOUT_S, RemoteEngine
from light_tts.server.request_observer import RequestSummary


class RemoteObserver:
    """A `RequestObserver` that passes on what it is told to the process where metrics are counted."""

    def __init__(self, engine: RemoteEngine) -> None:
        self._engine = engine

    def began(self, route: str) -> None:
        """See RequestObserver."""
        self._engine.tell(Began(route))

    def ended(self, summary: RequestSummary) -> None:
        """See RequestObserver."""
        self._engine.tell(Ended(summary))

    def page(self) -> bytes:
        """See RequestObserver. Raises NotReady while there is no process to count."""
        page: bytes = self._engine.ask(AskMetrics, timeout_s=HEALTH_TIMEOUT_S)
        return page
