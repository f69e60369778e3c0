"""An event loop on a thread of its own, and ways to wait for it from other threads."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs until closed. Other threads may call everything; the loop's own must not."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="light-tts-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end and return what it returns. An interrupted caller cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        """The items of an asynchronous iterator."""

        async def following() -> T | None:
            return await anext(source, None)

        while (item := self.run(following())) is not None:
            yield item

    @contextmanager
    def entered(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """An asynchronous context manager as an ordinary one."""

        async def enter() -> T:
            return await manager.__aenter__()

        async def leave(*error: Any) -> bool | None:
            return await manager.__aexit__(*error)

        value = self.run(enter())
        try:
            yield value
        except BaseException:
            if not self.run(leave(*sys.exc_info())):
                raise
        else:
            self.run(leave(None, None, None))

    def close(self) -> None:
        """Stop the loop and the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
