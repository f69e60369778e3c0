"""A front end's side of one request: filled by the records that come from the engine's process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import fields

import msgspec
import numpy as np

from light_tts.audio_stream import AudioStream
from light_tts.frontdoor.messages import Audio, Discard, End, Failed, FeedIds, FinishText, Flush, Taken
from light_tts.frontdoor.wire_errors import from_wire
from light_tts.text_stream import TextPieces, TextStream
from light_tts.types import AudioChunk, FinishReason, RequestStats

# What a front end measures itself, on its own clock and of what reached it.
_OWN_STATS = frozenset({"first_chunk_ms", "total_ms", "chunks", "audio_s", "finish"})
_ENGINE_STATS = tuple(item.name for item in fields(RequestStats) if item.name not in _OWN_STATS)

Send = Callable[[msgspec.Struct], None]


class Reading:
    """How far the reader of a stream has come, told to the engine's process now and then.

    Every telling costs that process a few microseconds, so only every so many chunks are told: the engine pauses a
    stream `max_pending_chunks` after the last it was told of.
    """

    def __init__(self, number: int, send: Send, max_pending_chunks: int) -> None:
        self.epoch = 0
        self._number = number
        self._send = send
        self._told_every = max(1, max_pending_chunks // 4)
        self._taken = 0

    def took_one(self) -> None:
        """The reader took a chunk."""
        self._taken += 1
        if self._taken >= self._told_every:
            self._send(Taken(self._number, self.epoch, self._taken))
            self._taken = 0

    def begin_epoch(self) -> int:
        """What was sent so far is not wanted any more."""
        self.epoch += 1
        self._taken = 0
        return self.epoch


class RemoteStream(AudioStream):
    """A request whose text is known.

    text_ms:  what the preparation of its text took here.
    """

    def __init__(self, request_id: str, *, timeout_s: float, max_pending_chunks: int, number: int, send: Send) -> None:
        super().__init__(request_id, timeout_s=timeout_s, max_pending_chunks=max_pending_chunks)
        self.text_ms = 0.0
        self._reading = Reading(number, send, max_pending_chunks)
        self.on_read = self._reading.took_one

    def receive(self, record: Audio | End | Failed) -> None:
        """A record for this request has come."""
        record.stats.prepare_ms += self.text_ms
        deliver(record, self, self._reading.epoch)


class RemoteTextStream(TextStream):
    """A request whose text arrives piece by piece; it is read and encoded here.

    text:  pieces of text to text ids.
    """

    def __init__(
        self,
        request_id: str,
        *,
        timeout_s: float,
        max_pending_chunks: int,
        number: int,
        send: Send,
        text: TextPieces,
    ) -> None:
        super().__init__(request_id, timeout_s=timeout_s, max_pending_chunks=max_pending_chunks)
        self._number = number
        self._send = send
        self._text = text
        self._reading = Reading(number, send, max_pending_chunks)
        self._receiving = threading.Lock()
        self.on_read = self._reading.took_one

    def receive(self, record: Audio | End | Failed) -> None:
        """A record for this request has come."""
        with self._receiving:
            deliver(record, self, self._reading.epoch)

    def flush(self) -> None:
        """See TextStream."""
        with self._feed_lock:
            self._send_ids(self._text.end())
            self._send(Flush(self._number))

    def discard(self) -> None:
        """See TextStream."""
        with self._feed_lock, self._receiving:
            self._num_chars = 0
            self._text.discard()
            self._send(Discard(self._number, self._reading.begin_epoch()))
            self.drop_unread()

    def finish_text(self) -> None:
        """See TextStream."""
        with self._feed_lock:
            self._send_ids(self._text.end())
            self._send(FinishText(self._number))

    def _speak(self, text: str) -> None:
        with self._feed_lock:
            self._send_ids(self._text.feed(text))

    def _send_ids(self, ids: Sequence[int]) -> None:
        if ids:
            self._send(FeedIds(self._number, tuple(ids)))


def deliver(record: Audio | End | Failed, stream: AudioStream, epoch: int) -> None:
    """Put a record into its stream; audio of an epoch that was discarded is dropped."""
    if isinstance(record, Audio):
        if record.epoch == epoch:
            _copy_stats(record.stats, stream.stats)
            stream.put(AudioChunk(np.frombuffer(record.samples, np.float32)))
        return
    _copy_stats(record.stats, stream.stats)
    if isinstance(record, End):
        stream.end(FinishReason(record.stats.finish))
    else:
        stream.fail(from_wire(record.error))


def _copy_stats(source: RequestStats, target: RequestStats) -> None:
    for name in _ENGINE_STATS:
        setattr(target, name, getattr(source, name))
