"""The engine's process seen by its front ends: accepts them, shares one engine and one set of metrics among them."""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from light_tts.errors import LightTTSError
from light_tts.frontdoor.messages import Places, Refused, VoiceInfo, VoiceList, Voices, Welcome
from light_tts.frontdoor.remote_voices import modified_ns
from light_tts.frontdoor.session import Session
from light_tts.frontdoor.wire_errors import to_wire
from light_tts.metrics import Metrics
from light_tts.server.engine_loading import OwnedEngine
from light_tts.server.request_observer import RequestSummary, ServerMetrics
from light_tts.speech_engine import VoiceRegistry

logger = logging.getLogger(__name__)

POOL_THREADS = 2


class EngineHouse:
    """Front ends may come before the engine has been loaded; each is welcomed when it has.

    listener:    a listening Unix socket.
    on_deserted: called whenever the last front end has gone. Set before `start`.
    """

    def __init__(self, listener: socket.socket, metrics: Metrics) -> None:
        self.engine: OwnedEngine | None = None
        self.on_deserted: Callable[[], None] | None = None
        self.questions = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="questions")
        self.extractions = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="extractions")
        self.metrics = ServerMetrics(metrics, self.health, self.gpu_memory)
        self._listener = listener
        self._wake, self._woken = socket.socketpair()
        self._lock = threading.Lock()
        self._sessions: dict[Session, bool] = {}  # -> whether it has said who it is
        self._threads: set[threading.Thread] = set()
        self._refusal: Refused | None = None
        self._is_closing = False
        self._thread = threading.Thread(target=self._accept, name="front ends", daemon=True)

    def start(self) -> None:
        """Accept front ends."""
        self._thread.start()

    @property
    def is_deserted(self) -> bool:
        """True while there is no front end."""
        return not self._sessions

    def welcome(self, engine: OwnedEngine) -> None:
        """The engine has been loaded: tell everybody, also those who come later."""
        with self._lock:
            self.engine = engine
            self._send_all(self._welcome_record(engine))
        engine.watch_places(self.places_changed)
        self.places_changed()

    def places_changed(self) -> None:
        """Tell every front end whether the engine takes requests, so that it need not prepare what will be refused."""
        with self._lock:  # whoever is told last is told what holds now
            if self.engine is not None:
                self._send_all(_places(self.engine))

    def refuse(self, error: LightTTSError) -> None:
        """The engine could not be loaded."""
        with self._lock:
            self._refusal = Refused(to_wire(error))
            self._send_all(self._refusal)

    def close(self) -> None:
        """Accept nobody any more; send everybody what is queued for them and say goodbye."""
        self._wake.close()
        self._thread.join()
        self._woken.close()
        self._listener.close()
        with self._lock:
            self._is_closing = True
            sessions, threads = list(self._sessions), list(self._threads)
            if self._refusal is not None:
                for session in sessions:  # also those who have not introduced themselves: there is no later
                    session.send(self._refusal)
        for session in sessions:
            session.close()
        for thread in threads:
            thread.join()
        self.questions.shutdown()
        self.extractions.shutdown()

    # House

    def introduce(self, session: Session) -> None:
        """See House."""
        with self._lock:
            self._sessions[session] = True
            if self._refusal is not None:
                session.send(self._refusal)
            elif self.engine is not None:
                session.send(self._welcome_record(self.engine))
                session.send(_places(self.engine))

    def voices_changed(self) -> None:
        """See House."""
        with self._lock:
            if self.engine is not None:
                self._send_all(Voices(voice_list(self.engine.voices)))

    def health(self) -> dict[str, Any]:
        """See House."""
        if self.engine is None:
            return {"ready": False, "error": None, "running": 0, "queued": 0}
        with self._lock:
            num_front_ends = len(self._sessions)
        return {**self.engine.health(), "http_workers": num_front_ends}

    def gpu_memory(self) -> dict[str, Any] | None:
        """See House."""
        return None if self.engine is None else self.engine.gpu_memory()

    def began(self, route: str) -> None:
        """See House."""
        self.metrics.began(route)

    def ended(self, summary: RequestSummary) -> None:
        """See House."""
        self.metrics.ended(summary)

    def lost(self, routes: Iterable[str]) -> None:
        """See House."""
        self.metrics.lost(routes)

    def page(self) -> bytes:
        """See House."""
        return self.metrics.page()

    # inside

    def _welcome_record(self, engine: OwnedEngine) -> Welcome:
        return Welcome(engine.model_name, engine.model_names, voice_list(engine.voices))

    def _send_all(self, record: Any) -> None:
        for session, is_introduced in self._sessions.items():
            if is_introduced:
                session.send(record)

    def _accept(self) -> None:
        """Until the house is being closed; whoever has come by then is let in."""
        self._listener.setblocking(False)
        is_open = True
        while is_open:
            is_open = self._wait_for_front_ends()
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._let_in(self._listener.accept()[0])

    def _wait_for_front_ends(self) -> bool:
        """False when the house is being closed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            return self._woken not in [key.fileobj for key, _ in selector.select()]

    def _let_in(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        session = Session(connection, self)
        thread = threading.Thread(target=self._serve, args=(session,), name="front end", daemon=True)
        with self._lock:
            self._sessions[session] = False
            self._threads.add(thread)
        thread.start()

    def _serve(self, session: Session) -> None:
        session.serve()
        logger.info("front end %d has gone", session.pid)
        with self._lock:
            del self._sessions[session]
            self._threads.discard(threading.current_thread())
            is_deserted = not self._sessions and not self._is_closing
        if is_deserted and self.on_deserted is not None:
            self.on_deserted()


def _places(engine: OwnedEngine) -> Places:
    refusal = engine.refusal()
    return Places(None if refusal is None else to_wire(refusal))


def voice_list(voices: VoiceRegistry) -> VoiceList:
    """What front ends are told of the voices."""
    directory = voices.directory
    changed_ns = 0 if directory is None else modified_ns(directory)
    infos = []
    for name in voices.names():
        voice = voices.get(name)
        infos.append(
            VoiceInfo(
                name,
                voice.language,
                voice.prompt_text,
                voice.has_prompt,
                voice.has_transcript,
                voices.added_at_s(name),
            )
        )
    return VoiceList(tuple(infos), None if directory is None else str(directory), changed_ns)
