"""Loads the engine of a process on a thread of its own, while the process already answers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from light_tts.errors import EngineFailure, LightTTSError, Overloaded
from light_tts.events import EngineEvents
from light_tts.server.engine_metrics import EngineMetrics
from light_tts.server.stats_log import StatsLog
from light_tts.server.step_profile import StepProfiler
from light_tts.settings import Settings
from light_tts.speech_engine import SpeechEngine

logger = logging.getLogger(__name__)


class OwnedEngine(SpeechEngine, Protocol):
    """An engine with the methods of its owner."""

    def warm_up(self) -> None:
        """Run every stage once."""

    def preload_phrases(self) -> None:
        """Begin to fill the cache of phrases."""

    def refusal(self) -> Overloaded | None:
        """What a new request would be refused with now; None when it would find a place."""

    def watch_places(self, on_change: Callable[[], None]) -> None:
        """Have somebody told whenever there is a `refusal` or none any more. Any thread may tell."""

    def close(self) -> None:
        """Stop everything."""


Load = Callable[[Settings, EngineEvents], OwnedEngine]


def load_engine(settings: Settings, events: EngineEvents) -> OwnedEngine:
    """The engine of this package."""
    from light_tts.engine import TTSEngine
    from light_tts.start_progress import terminal_progress

    return TTSEngine.load(settings, events=events, progress=terminal_progress())


class EngineLoading:
    """One engine from its loading to its end, and the lines of statistics beside it. Made on the main thread.

    metrics:    listens to the engine.
    on_ready:   gets the warm engine.
    on_failed:  gets what stood in the way; `error` holds it too.

    Raises ConfigError for a `profile_dir` that cannot be written.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: EngineMetrics,
        *,
        on_ready: Callable[[OwnedEngine], None],
        on_failed: Callable[[LightTTSError], None],
        load: Load = load_engine,
    ) -> None:
        self.error: LightTTSError | None = None
        self._settings = settings
        self._metrics = metrics
        self._events: EngineEvents = metrics
        if settings.server.profile_dir is not None:
            self._events = profiler = StepProfiler(settings.server.profile_dir, metrics)
            profiler.listen()
        self._on_ready = on_ready
        self._on_failed = on_failed
        self._load = load
        self._engine: OwnedEngine | None = None
        self._statistics: StatsLog | None = None
        self._thread = threading.Thread(target=self._work, name="load", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def close(self) -> None:
        """Close the engine; one that is still being loaded dies with the process. Raises what loading failed with."""
        if self.error is not None:
            raise self.error
        if self._statistics is not None:
            self._statistics.close()
        if self._engine is not None:
            self._engine.close()

    def _work(self) -> None:
        server = self._settings.server
        try:
            engine = self._load(self._settings, self._events)
            engine.warm_up()
        except LightTTSError as error:
            self._fail(error)
            return
        except Exception:
            logger.exception("the engine could not be loaded")
            self._fail(EngineFailure("The engine could not be loaded; the log has the reason."))
            return
        engine.preload_phrases()
        if not server.disable_log_stats:
            self._statistics = StatsLog(engine, self._metrics, server.log_stats_interval_s)
            self._statistics.start()
        self._engine = engine
        health = engine.health()
        address = f"http://{server.host}:{server.port}"
        logger.info("ready on %s: model %s on %s, %s", address, health["model"], health["device"], health["dtypes"])
        self._on_ready(engine)

    def _fail(self, error: LightTTSError) -> None:
        self.error = error
        self._on_failed(error)
