"""One request's audio on its way out: filled by the engine's threads, read from asyncio or from a plain thread.

Knows nothing of models or of HTTP.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np

from light_tts.errors import DeadlineExceeded, LightTTSError
from light_tts.trace import RequestTrace
from light_tts.types import SAMPLE_RATE_HZ, AudioChunk, FinishReason, RequestStats

T = TypeVar("T")


class Mailbox(Generic[T]):
    """An unbounded queue that wakes one reader, a thread or a coroutine; the writer never blocks."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._condition = threading.Condition()
        self._wake: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def clear(self) -> None:
        """Drop all items."""
        with self._condition:
            self._items.clear()

    def put(self, item: T) -> None:
        """Append and wake the reader."""
        with self._condition:
            self._items.append(item)
            wake, self._wake = self._wake, None
            self._condition.notify()
        if wake is not None:
            wake()

    def get(self, timeout_s: float | None) -> T:
        """Wait for the next item on this thread; raises TimeoutError."""
        with self._condition:
            if not self._condition.wait_for(lambda: bool(self._items), timeout_s):
                raise TimeoutError
            return self._items.popleft()

    async def get_async(self, timeout_s: float | None) -> T:
        """Wait for the next item on the running event loop; raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while True:
                arrived = asyncio.Event()
                with self._condition:
                    if self._items:
                        return self._items.popleft()
                    self._wake = _loop_setter(asyncio.get_running_loop(), arrived)
                await arrived.wait()


def _loop_setter(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> Callable[[], None]:
    def wake() -> None:
        # The loop may be gone when the engine outlives it; then there is nobody to wake.
        if not loop.is_closed():
            loop.call_soon_threadsafe(event.set)

    return wake


class AudioStream:
    """Iterate it (`for` or `async for`) to get AudioChunk after AudioChunk; errors of the request are raised there.

    Leaving a `with` / `async with` block cancels what is still running. `on_cancel`, `on_read` and `on_drained` are the
    engine's: stop the work; room for more chunks; nothing will be read any more (`on_left` is told that too). `trace`
    is None unless one is made.

    A request counts as running until its last chunk has been read; after `hold`, until `cancel`.
    """

    def __init__(self, request_id: str, *, timeout_s: float, max_pending_chunks: int) -> None:
        self.request_id = request_id
        self.stats = RequestStats()
        self.created_s = time.monotonic()
        self.on_cancel: Callable[[], None] | None = None
        self.on_read: Callable[[], None] | None = None
        self.on_drained: Callable[[], None] | None = None
        self.on_left: Callable[[], None] | None = None
        self.trace: RequestTrace | None = None
        self._timeout_s = timeout_s
        self._max_pending_chunks = max_pending_chunks
        self._mailbox: Mailbox[AudioChunk | LightTTSError] = Mailbox()
        self._lock = threading.Lock()
        self._finished = False  # the writer's side has ended
        self._drained = False  # the reader has seen the end
        self._is_left = False  # the reader was told of, or gave up
        self._is_held = False

    # the engine's side

    @property
    def is_finished(self) -> bool:
        """True when nothing more will be written: ended, failed or cancelled."""
        return self._finished

    @property
    def has_room(self) -> bool:
        """False while a slow reader has too many chunks waiting."""
        return len(self._mailbox) < self._max_pending_chunks

    @property
    def deadline_s(self) -> float:
        """When its time is over, of `time.monotonic`."""
        return self.created_s + self._timeout_s

    def end(self, reason: FinishReason) -> None:
        """All audio has been put; ignored after the end."""
        self._put(AudioChunk(np.zeros(0, np.float32), is_last=True), str(reason))

    def deadline_error(self) -> DeadlineExceeded:
        """What to fail with when its time is over."""
        return DeadlineExceeded(f"The request took longer than {self._timeout_s:g} s and was ended.")

    def put(self, chunk: AudioChunk) -> None:
        """Hand a chunk to the reader; ignored after the end."""
        self._put(chunk, None)

    def _put(self, chunk: AudioChunk, finish: str | None) -> None:
        with self._lock:
            if self._finished:
                return
            if finish is not None:
                self.stats.finish = finish
            now_ms = (time.monotonic() - self.created_s) * 1000.0
            if chunk.samples.size:
                if self.stats.first_chunk_ms is None:
                    self.stats.first_chunk_ms = now_ms
                self.stats.chunks += 1
                self.stats.audio_s += chunk.samples.size / SAMPLE_RATE_HZ
                self._mark("ready", chunk)
            if chunk.is_last:
                self._finished = True
                self.stats.total_ms = now_ms
            self._mailbox.put(chunk)

    def fail(self, error: LightTTSError) -> None:
        """End with an error, which the reader's next step raises; ignored after the end."""
        with self._lock:
            if self._finished:
                return
            self._finished = True
            self.stats.total_ms = (time.monotonic() - self.created_s) * 1000.0
            self.stats.finish = "error"
            self._mailbox.put(error)

    def drop_unread(self) -> None:
        """Take back the audio that the reader has not taken; ignored after the end."""
        with self._lock:
            if not self._finished:
                self._mailbox.clear()

    def redirect(self, mailbox: Mailbox[AudioChunk | LightTTSError]) -> None:
        """Have another mailbox take what is unread and all that follows: for a reader who does not iterate this."""
        with self._lock:
            while len(self._mailbox):
                mailbox.put(self._mailbox.get(0.0))
            self._mailbox = mailbox

    # the reader's side

    def hold(self) -> None:
        """The reader passes the audio on, which takes its time; it will say by `cancel` when that is done."""
        self._is_held = True

    def cancel(self) -> None:
        """Stop the work of this request. May be called at any time, from any thread, more than once."""
        with self._lock:
            was_finished, self._finished = self._finished, True
            if not was_finished:
                self.stats.total_ms = (time.monotonic() - self.created_s) * 1000.0
                self.stats.finish = "abort"
                self._mailbox.put(AudioChunk(np.zeros(0, np.float32), is_last=True))
        if not was_finished and self.on_cancel is not None:
            self.on_cancel()
        self._leave()

    def __iter__(self) -> Iterator[AudioChunk]:
        while not self._drained:
            try:
                item = self._mailbox.get(self._remaining_s())
            except TimeoutError:
                raise self._time_out() from None
            yield self._opened(item)

    async def __aiter__(self) -> AsyncIterator[AudioChunk]:
        while not self._drained:
            try:
                item = await self._mailbox.get_async(self._remaining_s())
            except TimeoutError:
                raise self._time_out() from None
            yield self._opened(item)

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    async def __aenter__(self) -> AudioStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def _remaining_s(self) -> float:
        return max(0.0, self.deadline_s - time.monotonic())

    def _time_out(self) -> DeadlineExceeded:
        self._drained = True
        self.cancel()
        return self.deadline_error()

    def _leave(self) -> None:
        with self._lock:
            was_left, self._is_left = self._is_left, True
        for told in (self.on_drained, self.on_left):
            if not was_left and told is not None:
                told()

    def _mark(self, what: str, chunk: AudioChunk) -> None:
        if self.trace is not None and chunk.samples.size:
            self.trace.instant("audio", what, time.monotonic(), audio_s=chunk.samples.size / SAMPLE_RATE_HZ)

    def _opened(self, item: AudioChunk | LightTTSError) -> AudioChunk:
        if isinstance(item, LightTTSError):
            self._drained = True
            if not self._is_held:
                self._leave()
            raise item
        self._mark("sent", item)
        self._drained = item.is_last
        if self.on_read is not None:
            self.on_read()
        if item.is_last and not self._is_held:
            self._leave()
        return item
