"""One synthesis that several requests hear: identical phrases asked for at the same time are spoken once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import numpy as np

from light_tts.audio_stream import AudioStream
from light_tts.errors import LightTTSError
from light_tts.types import AudioChunk, FinishReason, RequestStats

# What the models did once, whoever listens; it goes into the account of one of the listeners.
_COSTS = ("queue_ms", "prepare_ms", "text_tokens", "speech_tokens", "llm_ms", "flow_ms", "vocoder_ms", "retries")
_FACTS = ("segments", "prompt_s", "is_voice_cached")


class SharedSpeech(AudioStream):
    """The engine writes it as any stream; nobody reads it but the streams that joined, each with its own reader.

    A listener who leaves takes nothing from the others; when the last one leaves, the synthesis is cancelled. It counts
    as running until all listeners are done with what they heard.

    on_over:  called once, before the listeners hear of the end and before `join` refuses anyone: with all samples, or
              None unless the model ended its speech by itself. It must not call back.
    """

    def __init__(self, request_id: str, *, timeout_s: float, max_pending_chunks: int) -> None:
        super().__init__(request_id, timeout_s=timeout_s, max_pending_chunks=max_pending_chunks)
        self.on_over: Callable[[np.ndarray | None], None] = _ignore
        self._listeners: list[AudioStream] = []
        self._present: set[AudioStream] = set()  # listeners that are not done yet, also after the end
        self._pieces: list[np.ndarray] = []
        self._is_closed = False  # nobody can join any more
        self._sharing = threading.RLock()

    @property
    def has_room(self) -> bool:
        """Always: a phrase is short, and no slow listener may hold up the others."""
        return True

    def join(self, stream: AudioStream) -> bool:
        """Let a stream hear everything from the beginning; False when it is too late for that."""
        with self._sharing:
            if self._is_closed:
                return False
            self._listeners.append(stream)
            self._present.add(stream)
            for samples in self._pieces:
                stream.put(AudioChunk(samples))
        stream.on_cancel = partial(self._left, stream)
        stream.on_drained = partial(self._done_with, stream)
        if stream.is_finished:  # its reader left before it could say so here
            self._left(stream)
            self._done_with(stream)
        return True

    def put(self, chunk: AudioChunk) -> None:
        """See AudioStream."""
        with self._sharing:
            if self._is_closed:
                return
            super().put(chunk)
            self._pieces.append(chunk.samples)
            for stream in self._listeners:
                stream.put(AudioChunk(chunk.samples))

    def end(self, reason: FinishReason) -> None:
        """See AudioStream."""
        with self._sharing:
            if self._is_closed:
                return
            super().end(reason)
            is_whole = bool(self._pieces) and reason is FinishReason.STOP
            listeners = self._close(np.concatenate(self._pieces) if is_whole else None)
        for stream in listeners:
            stream.end(reason)

    def fail(self, error: LightTTSError) -> None:
        """See AudioStream."""
        with self._sharing:
            if self._is_closed:
                return
            super().fail(error)
            listeners = self._close()
        for stream in listeners:
            stream.fail(error)

    def cancel(self) -> None:
        """See AudioStream; who still listens is cancelled too."""
        with self._sharing:
            listeners = [] if self._is_closed else self._close()
        super().cancel()
        for stream in listeners:
            stream.cancel()

    def _left(self, stream: AudioStream) -> None:
        with self._sharing:
            if stream not in self._listeners:
                return
            is_last = len(self._listeners) == 1
            if is_last:
                self._close()
            else:
                self._listeners.remove(stream)
        if is_last:
            super().cancel()

    def _done_with(self, stream: AudioStream) -> None:
        with self._sharing:
            self._present.discard(stream)
            is_over = self._is_closed and not self._present
        if is_over:
            self._leave()

    def _close(self, whole: np.ndarray | None = None) -> list[AudioStream]:
        """Let nobody join any more and draw up the accounts; returns who was listening."""
        self.on_over(whole)
        self._is_closed = True
        listeners, self._listeners = self._listeners, []
        for position, stream in enumerate(listeners):
            _copy(self.stats, stream.stats, _FACTS if position else _FACTS + _COSTS)
        return listeners


def _copy(source: RequestStats, target: RequestStats, names: tuple[str, ...]) -> None:
    for name in names:
        setattr(target, name, getattr(source, name))


def _ignore(samples: np.ndarray | None) -> None:
    pass
