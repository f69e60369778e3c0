"""The engine's side of one front end: carries out its records, sends the audio back, ends with the connection."""

from __future__ import annotations

import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any, Protocol, cast

import msgspec
import numpy as np

from light_tts import __version__
from light_tts.audio_stream import AudioStream, Mailbox
from light_tts.errors import ConfigError, EngineFailure, LightTTSError, NotReady
from light_tts.frontdoor import messages
from light_tts.frontdoor.channel import Channel
from light_tts.frontdoor.messages import Answer, Audio, End, Failed, ToEngine
from light_tts.frontdoor.wire_errors import to_wire
from light_tts.server.request_observer import RequestSummary
from light_tts.speech_engine import SpeechEngine
from light_tts.text_stream import TextAudioStream
from light_tts.types import AudioChunk, RequestStats

logger = logging.getLogger(__name__)


class House(Protocol):
    """What the sessions of one process share. Any thread."""

    @property
    def engine(self) -> SpeechEngine | None:
        """None while it loads."""

    @property
    def questions(self) -> Executor:
        """Where what takes milliseconds is answered."""

    @property
    def extractions(self) -> Executor:
        """Where voices are made of recordings, which takes seconds."""

    def introduce(self, session: Session) -> None:
        """A front end has said who it is: tell it what it has missed, and from now on what all are told."""

    def voices_changed(self) -> None:
        """Tell every front end which voices there are now."""

    def health(self) -> dict[str, Any]:
        """Of the engine, or what is known while it loads."""

    def gpu_memory(self) -> dict[str, Any] | None:
        """Of the engine; None while it loads."""

    def began(self, route: str) -> None:
        """A front end has accepted a synthesis request."""

    def ended(self, summary: RequestSummary) -> None:
        """A front end's request is over."""

    def lost(self, routes: Iterable[str]) -> None:
        """Requests to these routes that had begun went with their front end."""

    def page(self) -> bytes:
        """The metrics."""


class Session:
    """One connection. `serve` runs on a thread of its own."""

    def __init__(self, connection: socket.socket, house: House) -> None:
        self.pid = 0
        self._house = house
        self._channel: Channel[ToEngine] = Channel(connection, msgspec.msgpack.Decoder(ToEngine), "a front end")
        self._lock = threading.Lock()
        self._requests: dict[int, _Forwarded] = {}
        self._open: Counter[str] = Counter()  # route -> synthesis requests that began and have not ended

    def send(self, record: msgspec.Struct) -> None:
        """Queue a record for the front end."""
        self._channel.send(record)

    def serve(self) -> None:
        """Carry out records until the front end has gone; whatever it had running is cancelled then."""
        try:
            self._channel.receive_all(self._receive)
        except Exception:
            logger.exception("the connection with front end %d is given up", self.pid)
        with self._lock:
            requests = list(self._requests.values())
        for request in requests:
            request.cancel()
        self._house.lost(self._open.elements())
        self._channel.close()
        self._channel.join()

    def close(self) -> None:
        """Send what is queued, then end the connection."""
        self._channel.finish()

    def _receive(self, record: ToEngine) -> None:
        handler: Callable[[Any], None] = _HANDLERS[type(record)].__get__(self)
        handler(record)

    # requests

    def _hello(self, record: messages.Hello) -> None:
        self.pid = record.pid
        if record.version != __version__:
            error = ConfigError(
                f"A front end of version {record.version} met an engine of version {__version__}; restart the server."
            )
            self.send(messages.Refused(to_wire(error)))
            self._channel.finish()
        else:
            self._house.introduce(self)

    def _submit(self, record: messages.Submit) -> None:
        request = messages.received_request(record.voice, record.fields)
        self._begin(record.request, lambda engine: engine.submit(request))

    def _open_text(self, record: messages.OpenText) -> None:
        request = messages.received_request(record.voice, record.fields)
        self._begin(record.request, lambda engine: engine.open_text_stream(request))

    def _convert(self, record: messages.Convert) -> None:
        request = messages.received_request(record.voice, record.fields)
        self._begin(record.request, lambda engine: engine.convert(record.source, request))

    def _begin(self, number: int, begin: Callable[[SpeechEngine], AudioStream]) -> None:
        forwarded = _Forwarded(number, self.send)
        try:
            stream = begin(self._ready_engine())
        except LightTTSError as error:
            forwarded.put(error)
            return
        with self._lock:
            self._requests[number] = forwarded
        forwarded.attach(stream)

    def _request(self, number: int) -> _Forwarded | None:
        """None when it could not begin, which the front end may not know yet."""
        with self._lock:
            return self._requests.get(number)

    def _feed(self, record: messages.FeedIds) -> None:
        if (request := self._request(record.request)) is not None:
            request.text.feed_ids(record.ids)

    def _flush(self, record: messages.Flush) -> None:
        if (request := self._request(record.request)) is not None:
            request.text.flush()

    def _discard(self, record: messages.Discard) -> None:
        if (request := self._request(record.request)) is not None:
            request.text.discard()
            request.epoch = record.epoch
            request.clear()

    def _finish_text(self, record: messages.FinishText) -> None:
        if (request := self._request(record.request)) is not None:
            request.text.finish_text()

    def _taken(self, record: messages.Taken) -> None:
        if (request := self._request(record.request)) is not None:
            request.taken(record.epoch, record.chunks)

    def _leave(self, record: messages.Leave) -> None:
        with self._lock:
            request = self._requests.pop(record.request, None)
        if request is not None:
            request.cancel()

    # counting

    def _began(self, record: messages.Began) -> None:
        self._open[record.route] += 1
        self._house.began(record.route)

    def _ended(self, record: messages.Ended) -> None:
        if record.summary.is_synthesis:
            self._open[record.summary.route] -= 1
        self._house.ended(record.summary)

    # questions

    def _add_voice(self, record: messages.AddVoice) -> None:
        def add(engine: SpeechEngine) -> None:
            engine.voices.add(record.name, record.recording, record.prompt_text, record.language, record.consent)
            self._house.voices_changed()

        self._answer(record.call, add, self._house.extractions)

    def _remove_voice(self, record: messages.RemoveVoice) -> None:
        def remove(engine: SpeechEngine) -> None:
            engine.voices.remove(record.name)
            self._house.voices_changed()

        self._answer(record.call, remove)

    def _reread_voices(self, record: messages.RereadVoices) -> None:
        self._answer(record.call, lambda engine: self._house.voices_changed())

    def _ask_health(self, record: messages.AskHealth) -> None:
        self._house.questions.submit(
            self._send_answer,
            record.call,
            lambda: {"health": self._house.health(), "gpu_memory": self._house.gpu_memory()},
        )

    def _ask_metrics(self, record: messages.AskMetrics) -> None:
        self._house.questions.submit(self._send_answer, record.call, self._house.page)

    def _answer(self, call: int, work: Callable[[SpeechEngine], object], where: Executor | None = None) -> None:
        executor = where or self._house.questions
        executor.submit(self._send_answer, call, lambda: work(self._ready_engine()))

    def _ready_engine(self) -> SpeechEngine:
        engine = self._house.engine
        if engine is None or not engine.is_ready:
            raise NotReady("The speech engine is not ready; /health says why.")
        return engine

    def _send_answer(self, call: int, work: Callable[[], object]) -> None:
        """On a pool."""
        try:
            answer = Answer(call, work())
        except LightTTSError as error:
            answer = Answer(call, error=to_wire(error))
        except Exception:
            logger.exception("a question of front end %d could not be answered", self.pid)
            answer = Answer(call, error=to_wire(EngineFailure("The engine could not answer; its log has the reason.")))
        self.send(answer)


class _Forwarded(Mailbox[AudioChunk | LightTTSError]):
    """The mailbox of one stream of the engine: sends what is put, and counts what its reader has not taken yet."""

    def __init__(self, number: int, send: Callable[[msgspec.Struct], None]) -> None:
        super().__init__()
        self.epoch = 0
        self._number = number
        self._send = send
        self._stream: AudioStream | None = None
        self._num_untaken = 0
        self._counting = threading.Lock()

    def __len__(self) -> int:
        return self._num_untaken

    @property
    def text(self) -> TextAudioStream:
        """The stream, of a request whose text arrives in pieces."""
        return cast(TextAudioStream, self._stream)

    def attach(self, stream: AudioStream) -> None:
        """Send everything the stream has and will have."""
        self._stream = stream
        stream.redirect(self)

    def put(self, item: AudioChunk | LightTTSError) -> None:
        """See Mailbox."""
        stats = RequestStats() if self._stream is None else self._stream.stats
        if isinstance(item, LightTTSError):
            self._send(Failed(self._number, stats, to_wire(item)))
            return
        if item.samples.size:
            with self._counting:
                self._num_untaken += 1
            samples = np.ascontiguousarray(item.samples, np.float32).data.cast("B")
            self._send(Audio(self._number, self.epoch, stats, samples))  # type: ignore[arg-type]
        if item.is_last:
            self._send(End(self._number, stats))

    def clear(self) -> None:
        """See Mailbox."""
        with self._counting:
            self._num_untaken = 0

    def taken(self, epoch: int, chunks: int) -> None:
        """The reader has made room."""
        with self._counting:
            if epoch == self.epoch:
                self._num_untaken = max(0, self._num_untaken - chunks)
        if self._stream is not None and self._stream.on_read is not None:
            self._stream.on_read()

    def cancel(self) -> None:
        """Nobody reads any more, or all has been read."""
        if self._stream is not None:
            self._stream.cancel()


_HANDLERS: dict[type, Any] = {
    messages.Hello: Session._hello,
    messages.Submit: Session._submit,
    messages.OpenText: Session._open_text,
    messages.Convert: Session._convert,
    messages.FeedIds: Session._feed,
    messages.Flush: Session._flush,
    messages.Discard: Session._discard,
    messages.FinishText: Session._finish_text,
    messages.Taken: Session._taken,
    messages.Leave: Session._leave,
    messages.Began: Session._began,
    messages.Ended: Session._ended,
    messages.AddVoice: Session._add_voice,
    messages.RemoveVoice: Session._remove_voice,
    messages.RereadVoices: Session._reread_voices,
    messages.AskHealth: Session._ask_health,
    messages.AskMetrics: Session._ask_metrics,
}
