"""A front end's engine: the `SpeechEngine` whose models are in another process.

Texts are prepared here, on a small pool; everything else is a record to the engine's process. One thread reads what it
answers. When the process dies, its requests fail at once, and the next process is waited for.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from light_tts import __version__
from light_tts.audio_stream import AudioStream
from light_tts.errors import EngineFailure, LightTTSError, NotReady
from light_tts.frontdoor.channel import Channel, encode
from light_tts.frontdoor.messages import (
    Answer,
    AskHealth,
    Audio,
    Convert,
    End,
    Failed,
    Hello,
    Leave,
    OpenText,
    Places,
    Refused,
    Submit,
    ToFrontEnd,
    Voices,
    Welcome,
    sent_fields,
    sent_voice,
)
from light_tts.frontdoor.remote_stream import RemoteStream, RemoteTextStream
from light_tts.frontdoor.remote_voices import RemoteVoices
from light_tts.frontdoor.wire_errors import WireError, from_wire
from light_tts.frontend.text import TextFrontend
from light_tts.phrase_book import is_phrase
from light_tts.request_ranges import check_ranges
from light_tts.settings import Settings
from light_tts.types import ReferenceAudio, RegisteredVoice, SynthesisRequest

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 60.0  # the longest wait is for a new voice, whose recording is read by the models
HEALTH_TIMEOUT_S = 5.0

Connect = Callable[[], socket.socket]


class RemoteEngine:
    """One connection to the engine's process, made anew as often as needed. Start it with `start`.

    connect:     to the process that owns the engine; raises OSError when there will be none any more.
    text:        texts to text ids, as the engine would.
    on_ready:    called once, when the engine has been loaded.
    on_gone:     called once, when there will be no engine any more; with the reason, if the engine gave one.
    """

    def __init__(
        self,
        settings: Settings,
        connect: Connect,
        text: TextFrontend,
        *,
        on_ready: Callable[[], None],
        on_gone: Callable[[LightTTSError | None], None],
    ) -> None:
        self.voices = RemoteVoices(self.ask)
        self._settings = settings
        self._connect = connect
        self._text = text
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._pool = ThreadPoolExecutor(settings.frontend.threads, thread_name_prefix="text")
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._channel: Channel[ToFrontEnd] | None = None  # None: no process to talk to
        self._welcome: Welcome | None = None  # of the process there is, or of the last one
        self._is_welcome = False
        self._streams: dict[int, RemoteStream | RemoteTextStream] = {}
        self._calls: dict[int, Future[Any]] = {}
        self._refusal: LightTTSError | None = None
        self._full: WireError | None = None  # what a new request would be told; None: there is a place
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Connect, and stay connected."""
        self._thread.start()

    def close(self) -> None:
        """Send what is still to be said, such as the last requests' ends, and disconnect."""
        with self._lock:
            self._is_closing = True
            if self._channel is not None:
                self._end(self._channel)
        self._thread.join()
        self._pool.shutdown()

    def tell(self, record: msgspec.Struct) -> None:
        """Send a record to the engine's process; lost while there is none."""
        channel = self._channel
        if channel is not None:
            channel.send(record)

    def ask(self, kind: Callable[..., msgspec.Struct], *values: object, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """Ask the engine's process, and wait. Raises the error it answers with, NotReady when it does not answer."""
        number = next(self._numbers)
        future: Future[Any] = Future()
        with self._lock:
            if self._channel is None:
                raise _lost()
            self._calls[number] = future
        self.tell(kind(number, *values))
        try:
            return future.result(timeout_s)
        except TimeoutError:
            with self._lock:
                self._calls.pop(number, None)
            raise NotReady(f"The process of the speech engine did not answer within {timeout_s:g} s.") from None

    # SpeechEngine

    @property
    def model_name(self) -> str:
        """See SpeechEngine."""
        return "" if self._welcome is None else self._welcome.model_name

    @property
    def model_names(self) -> list[str]:
        """See SpeechEngine."""
        return [] if self._welcome is None else list(self._welcome.model_names)

    @property
    def is_ready(self) -> bool:
        """See SpeechEngine."""
        return self._is_welcome

    def health(self) -> dict[str, Any]:
        """See SpeechEngine."""
        try:
            health: dict[str, Any] = self.ask(AskHealth, timeout_s=HEALTH_TIMEOUT_S)["health"]
        except NotReady as error:
            return {"ready": False, "error": str(error), "running": 0, "queued": 0}
        return health

    def gpu_memory(self) -> dict[str, Any] | None:
        """See SpeechEngine."""
        try:
            memory: dict[str, Any] | None = self.ask(AskHealth, timeout_s=HEALTH_TIMEOUT_S)["gpu_memory"]
        except NotReady:
            return None
        return memory

    def submit(self, request: SynthesisRequest) -> AudioStream:
        """See SpeechEngine."""
        check_ranges(request)
        self._refuse_if_full(request)
        number, stream = self._open(request)
        self._pool.submit(self._prepare, number, stream, request)
        return stream

    def open_text_stream(self, request: SynthesisRequest) -> RemoteTextStream:
        """See SpeechEngine."""
        check_ranges(request)
        self._check_texts(request)
        number = next(self._numbers)
        stream = RemoteTextStream(
            **self._stream_options(request), number=number, send=self.tell, text=self._text.open_text(request)
        )
        stream.max_text_chars = self._settings.frontend.max_text_chars
        self._register(number, stream)
        self.tell(OpenText(number, sent_voice(request), sent_fields(replace(request, text=""))))
        if request.text:
            stream.feed(request.text)
        return stream

    def convert(self, source: bytes, request: SynthesisRequest) -> AudioStream:
        """See SpeechEngine."""
        number, stream = self._open(request)
        self.tell(Convert(number, source, sent_voice(request), sent_fields(request)))
        return stream

    # inside

    def _open(self, request: SynthesisRequest) -> tuple[int, RemoteStream]:
        check_ranges(request)
        self._check_texts(request)
        number = next(self._numbers)
        stream = RemoteStream(**self._stream_options(request), number=number, send=self.tell)
        self._register(number, stream)
        return number, stream

    def _refuse_if_full(self, request: SynthesisRequest) -> None:
        """Spare the preparation of a text whose request would find no place. Raises what the engine would."""
        full = self._full
        # Phrases from the cache and probes need no place.
        if full is not None and not request.is_probe and not is_phrase(request, self._settings.short_text):
            raise from_wire(full)

    def _stream_options(self, request: SynthesisRequest) -> dict[str, Any]:
        limits = self._settings.engine
        return {
            "request_id": request.request_id or uuid.uuid4().hex,
            "timeout_s": min(limits.request_timeout_s, request.timeout_s or limits.request_timeout_s),
            "max_pending_chunks": limits.max_pending_chunks,
        }

    def _check_texts(self, request: SynthesisRequest) -> None:
        """What the engine would refuse too, and could not even be sent."""
        voice = request.voice
        words = voice.prompt_text if isinstance(voice, ReferenceAudio | RegisteredVoice) else None
        for text, field in ((request.text, "text"), (request.instruction, "instruction"), (words, "prompt_text")):
            self._text.check(text or "", field)

    def _register(self, number: int, stream: RemoteStream | RemoteTextStream) -> None:
        """Have records for the request delivered. Raises NotReady while there is no engine."""
        with self._lock:
            if not self._is_welcome:
                raise _lost()
            self._streams[number] = stream
        stream.on_drained = partial(self._leave, number)

    def _leave(self, number: int) -> None:
        """The reader is done with the request, or has given it up."""
        with self._lock:
            self._streams.pop(number, None)
        self.tell(Leave(number))

    def _submit(self, number: int, record: Submit) -> None:
        """Begin a request whose text has been prepared; not one whose reader has left, which nobody would end again."""
        frame = encode(record)
        with self._lock:
            if number in self._streams and self._channel is not None:
                self._channel.send_frame(frame)

    def _prepare(self, number: int, stream: RemoteStream, request: SynthesisRequest) -> None:
        """On the pool."""
        if stream.is_finished:
            return
        began_s = time.monotonic()
        try:
            self._refuse_if_full(request)
            prepared = replace(request, prepared_text=self._text.prepare(request))
            stream.text_ms = (time.monotonic() - began_s) * 1000.0
            self._submit(number, Submit(number, sent_voice(request), sent_fields(prepared)))
        except LightTTSError as error:
            stream.fail(error)
        except Exception:
            logger.exception("request %s could not be prepared", stream.request_id)
            stream.fail(EngineFailure("The request could not be prepared."))

    # the thread that reads

    def _work(self) -> None:
        reason: LightTTSError | None = None
        while reason is None:
            try:
                connection = self._connect()
            except OSError:
                break
            except LightTTSError as error:
                reason = error
                break
            channel: Channel[ToFrontEnd] = Channel(connection, msgspec.msgpack.Decoder(ToFrontEnd), "engine")
            channel.send(Hello(__version__, os.getpid()))
            with self._lock:
                self._channel = channel
                if self._is_closing:
                    self._end(channel)
            channel.receive_all(self._receive)
            self._lose(channel)
            reason = self._refusal
            if self._is_closing:
                return
        self._on_gone(reason)

    def _end(self, channel: Channel[ToFrontEnd]) -> None:
        if self._is_welcome:
            channel.finish()
        else:  # perhaps nobody is there yet to see the end
            channel.close()

    def _lose(self, channel: Channel[ToFrontEnd]) -> None:
        """The process has ended: so have its requests."""
        with self._lock:
            self._channel = None
            self._is_welcome, self._full = False, None
            streams, self._streams = list(self._streams.values()), {}
            calls, self._calls = list(self._calls.values()), {}
        channel.close()
        channel.join()
        for stream in streams:
            stream.fail(_lost())
        for future in calls:
            future.set_exception(_lost())

    def _receive(self, record: ToFrontEnd) -> None:
        if isinstance(record, Welcome):
            is_first = self._welcome is None
            self.voices.take(record.voices)
            with self._lock:
                self._welcome = record
                self._is_welcome = True
            if is_first:
                self._on_ready()
        elif isinstance(record, Refused):
            self._refusal = from_wire(record.error)
            if self._channel is not None:
                self._channel.close()
        elif isinstance(record, Voices):
            self.voices.take(record.voices)
        elif isinstance(record, Places):
            self._full = record.refusal
        elif isinstance(record, Answer):
            self._take_answer(record)
        else:
            self._deliver(record)

    def _deliver(self, record: Audio | End | Failed) -> None:
        with self._lock:
            stream = self._streams.get(record.request)
        if stream is not None:  # else its reader has left
            stream.receive(record)

    def _take_answer(self, answer: Answer) -> None:
        with self._lock:
            future = self._calls.pop(answer.call, None)
        if future is None:
            return
        if answer.error is not None:
            future.set_exception(from_wire(answer.error))
        else:
            future.set_result(answer.value)


def _lost() -> NotReady:
    return NotReady("The process of the speech engine has ended; another one is being started.")
