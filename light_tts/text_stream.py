"""An AudioStream whose text arrives while its audio leaves."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from light_tts.audio_stream import AudioStream
from light_tts.errors import TextTooLong
from light_tts.speech_source import SpeechSource
from light_tts.types import TokenSink

if TYPE_CHECKING:
    from light_tts.narration import Narration


class TextRun(SpeechSource, Protocol):
    """A language-model run that takes its text piece by piece."""

    def append(self, ids: Sequence[int]) -> None:
        """Text ids, in order."""

    def finish(self) -> None:
        """No more text."""


class TextPieces(Protocol):
    """Makes text ids of the pieces, and may hold some back until it knows more."""

    def feed(self, text: str) -> Sequence[int]:
        """Ids of what can be spoken with this piece. Raises InvalidRequest."""

    def end(self) -> Sequence[int]:
        """Ids of what is left; what follows is a new beginning."""

    def discard(self) -> None:
        """Forget what has not become ids yet."""


class TextStream(AudioStream, ABC):
    """`feed` text as it comes, `finish_text` at the end; iterate the audio meanwhile. Safe from any thread.

    `flush` speaks what has been fed without waiting for more: the current run of the language model ends, and later
    text opens a new one with the same voice. `discard` drops what has been fed and not been read as audio.

    max_text_chars:  all text of the stream together may not be longer; 0: no limit. Set by the engine.
    """

    def __init__(self, request_id: str, *, timeout_s: float, max_pending_chunks: int) -> None:
        super().__init__(request_id, timeout_s=timeout_s, max_pending_chunks=max_pending_chunks)
        self.max_text_chars = 0
        self._num_chars = 0
        self._feed_lock = threading.RLock()

    def feed(self, text: str) -> None:
        """Append text to what is spoken. Raises TextTooLong over the limit; what was fed before is still spoken."""
        with self._feed_lock:
            if self.max_text_chars and self._num_chars + len(text) > self.max_text_chars:
                raise TextTooLong(
                    f"The text of this stream would have more than {self.max_text_chars} characters; "
                    "finish it and open another.",
                    "text",
                )
            self._num_chars += len(text)
            self._speak(text)

    @abstractmethod
    def flush(self) -> None:
        """Speak what is there."""

    @abstractmethod
    def discard(self) -> None:
        """Drop what has been fed and not been read as audio; the stream stays open for other text."""

    @abstractmethod
    def finish_text(self) -> None:
        """No more text comes; the audio ends when all of it has been spoken."""

    @abstractmethod
    def _speak(self, text: str) -> None:
        """Pass text on to whoever speaks it."""


class TextAudioStream(TextStream):
    """A TextStream of the engine in this process: text goes straight into a run of the language model."""

    def __init__(self, request_id: str, *, timeout_s: float, max_pending_chunks: int) -> None:
        super().__init__(request_id, timeout_s=timeout_s, max_pending_chunks=max_pending_chunks)
        self._early: list[Callable[[], None]] = []  # calls made before the voice was ready
        self._narration: Narration | None = None
        self._text: TextPieces | None = None
        self._open_run: Callable[[TokenSink, int], TextRun] | None = None
        self._pending: _PendingRun | None = None  # the run that takes text now

    def _speak(self, text: str) -> None:
        with self._feed_lock:
            if not self._is_connected(lambda: self._speak(text)):
                return
            assert self._text is not None
            self._append(self._text.feed(text))

    def feed_ids(self, ids: Sequence[int]) -> None:
        """Append text that has been read and encoded elsewhere."""
        with self._feed_lock:
            if self._is_connected(lambda: self.feed_ids(ids)):
                self._append(ids)

    def flush(self) -> None:
        """See TextStream."""
        with self._feed_lock:
            if not self._is_connected(self.flush):
                return
            assert self._text is not None
            self._append(self._text.end())
            if self._pending is not None:
                self._pending.finish()
                self._pending = None

    def discard(self) -> None:
        """See TextStream."""
        with self._feed_lock:
            self._num_chars = 0
            self._early.clear()
            self._pending = None
            if self._narration is None:
                return
            assert self._text is not None
            self._text.discard()
            self._narration.drop()
            self.drop_unread()

    def finish_text(self) -> None:
        """See TextStream."""
        with self._feed_lock:
            if self._is_connected(self.finish_text):
                self.flush()
                assert self._narration is not None
                self._narration.complete()

    def connect(
        self,
        narration: Narration,
        *,
        text: TextPieces,
        open_run: Callable[[TokenSink, int], TextRun],
    ) -> None:
        """The engine's: the voice is ready; replay what was fed meanwhile."""
        with self._feed_lock:
            self._narration, self._text, self._open_run = narration, text, open_run
            early, self._early = self._early, []
            for call in early:
                call()

    def _is_connected(self, call: Callable[[], None]) -> bool:
        if self._narration is None:
            self._early.append(call)
            return False
        return True

    def _append(self, ids: Sequence[int]) -> None:
        self.stats.text_tokens += len(ids)
        if not ids:
            return
        if self._pending is None:
            self._start_run()
        assert self._pending is not None
        self._pending.append(ids)

    def _start_run(self) -> None:
        assert self._narration is not None
        assert self._open_run is not None
        self._pending = _PendingRun(self._open_run)
        self._narration.add(self._pending.start)


class _PendingRun:
    """A text run that may be started later than its text arrives: segments wait for the one before them.

    It may be started again after its run was lost; therefore it keeps its text.
    """

    def __init__(self, open_run: Callable[[TokenSink, int], TextRun]) -> None:
        self._open_run = open_run
        self._lock = threading.RLock()
        self._ids: list[int] = []
        self._is_finished = False
        self._run: TextRun | None = None

    def start(self, sink: TokenSink, index: int) -> TextRun:
        with self._lock:
            self._run = self._open_run(sink, index)
            if self._ids:
                self._run.append(self._ids)
            if self._is_finished:
                self._run.finish()
            return self._run

    def append(self, ids: Sequence[int]) -> None:
        with self._lock:
            self._ids.extend(ids)
            if self._run is not None:
                self._run.append(ids)

    def finish(self) -> None:
        with self._lock:
            self._is_finished = True
            if self._run is not None:
                self._run.finish()
