"""A request on its way in: its stream, its place, its deadline, its preparation off the caller's thread, its trace.

The same for every kind of request; what is prepared is the engine's business.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from light_tts.acoustic.decoder import AcousticDecoder
from light_tts.admission import Admission
from light_tts.audio_stream import AudioStream
from light_tts.caller_limits import CallerLimits
from light_tts.deadlines import DeadlineClock
from light_tts.errors import ConfigError, EngineFailure, LightTTSError
from light_tts.narration import Narration
from light_tts.request_ranges import check_ranges
from light_tts.settings import EngineSettings
from light_tts.trace import RequestTrace
from light_tts.types import SAMPLE_RATE_HZ, SynthesisRequest

logger = logging.getLogger(__name__)

StreamKind = TypeVar("StreamKind", bound=AudioStream)
Prepare = Callable[[Narration], None]


class Intake:
    """Lets requests in until it is closed. Any thread may call.

    num_threads:   prepare requests.
    when_revived:  see Narration; told whenever a request is begun again.
    """

    def __init__(
        self,
        settings: EngineSettings,
        decoder: AcousticDecoder,
        *,
        num_threads: int,
        when_revived: Callable[[Callable[[], None]], None],
    ) -> None:
        self.admission = Admission(max_running=settings.max_concurrent_requests, max_queue=settings.max_queue)
        self._callers = CallerLimits(settings.key_max_concurrent, settings.key_requests_per_minute)
        self._settings = settings
        self._decoder = decoder
        self._when_revived = when_revived
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="frontend")
        self._deadlines = DeadlineClock()
        self._is_closed = False
        self._deadlines.start()

    def drain(self, timeout_s: float) -> bool:
        """Let nobody in any more and wait for those inside; False when some are still there after the time."""
        self.admission.stop()
        return self.admission.wait_until_empty(timeout_s)

    def cancel_all(self) -> None:
        """Let nobody in any more and cancel those inside."""
        self._is_closed = True
        self.admission.stop()
        for stream in self.admission.members():
            assert isinstance(stream, AudioStream)
            stream.cancel()

    def close(self) -> None:
        """Stop the threads; after `cancel_all`."""
        self._deadlines.close()
        self._pool.shutdown(wait=True)

    def open_stream(self, kind: type[StreamKind], request: SynthesisRequest, *, of_caller: bool = True) -> StreamKind:
        """The stream of a request that could be served.

        of_caller:  False for work on behalf of several callers, which none of them is charged for.
        Raises InvalidRequest, RateLimited, EngineFailure after `cancel_all`.
        """
        check_ranges(request)
        if self._is_closed:
            raise EngineFailure("The engine has been closed.")
        limit_s = self._settings.request_timeout_s
        stream = kind(
            request.request_id or uuid.uuid4().hex,
            timeout_s=min(limit_s, request.timeout_s or limit_s),
            max_pending_chunks=self._settings.max_pending_chunks,
        )
        if of_caller and request.caller is not None:
            self._callers.enter(request.caller, stream)
        return stream

    def begin(
        self, stream: AudioStream, prepare: Prepare, trace: RequestTrace | None = None, *, takes_place: bool = True
    ) -> None:
        """Let the request in: `prepare` runs on the pool as soon as it has a place. Raises Overloaded.

        takes_place:  False for work that nobody waits for: it is let in beside the places.
        """
        stream.trace = trace
        traced: Callable[[], None] | None = None
        if trace is None and self._settings.trace_dir is not None:
            stream.trace = RequestTrace(stream.request_id)
            traced = partial(self._write_trace, stream.trace, self._settings.trace_dir)
        stay = _Stay(partial(self._leave, stream))
        gap_samples = round(self._settings.sentence_gap_ms * SAMPLE_RATE_HZ / 1000.0)
        narration = Narration(stream, self._decoder, stay.work_ended, self._when_revived, gap_samples=gap_samples)
        stream.on_cancel = narration.cancel
        stream.on_read = narration.wake
        stream.on_drained = partial(stay.reader_left, traced)

        def expire() -> None:
            narration.fail(stream.deadline_error())
            stay.end()  # also when nobody ever reads it

        self._deadlines.add(stream, stream.deadline_s, expire)
        enter = self.admission.enter if takes_place else self.admission.enter_extra
        try:
            enter(stream, partial(self._submit, narration, prepare))
        except LightTTSError:
            self._deadlines.remove(stream)
            if stream.on_left is not None:
                stream.on_left()
            raise

    def _leave(self, stream: AudioStream) -> None:
        self._deadlines.remove(stream)
        self.admission.leave(stream)

    def _submit(self, narration: Narration, prepare: Prepare) -> None:
        try:
            self._pool.submit(_run, narration, prepare)
        except RuntimeError:
            narration.fail(EngineFailure("The engine has been closed."))

    def _write_trace(self, trace: RequestTrace, directory: Path) -> None:
        # On the pool: the reader may be an event loop, which does not wait for disks.
        try:
            self._pool.submit(_write_trace, trace, directory)
        except RuntimeError:
            _write_trace(trace, directory)


class _Stay:
    """A request inside: until its work has ended and its reader is done with it, whichever comes last."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave  # idempotent
        self._lock = threading.Lock()
        self._is_working = True
        self._is_being_read = True

    def work_ended(self) -> None:
        with self._lock:
            self._is_working = False
            is_over = not self._is_being_read
        if is_over:
            self._leave()

    def reader_left(self, traced: Callable[[], None] | None) -> None:
        with self._lock:
            self._is_being_read = False
            is_over = not self._is_working
        if is_over:
            self._leave()
        if traced is not None:
            traced()

    def end(self) -> None:
        """Whatever is still going on."""
        self._leave()


def _run(narration: Narration, prepare: Prepare) -> None:
    """Run a preparation; whatever goes wrong there ends this request alone."""
    stream = narration.stream
    if stream.is_finished:
        return
    started_s = time.monotonic()
    stream.stats.queue_ms = (started_s - stream.created_s) * 1000.0
    try:
        with torch.inference_mode():
            prepare(narration)
    except LightTTSError as error:
        narration.fail(error)
    except Exception:
        logger.exception("request %s could not be prepared", stream.request_id)
        narration.fail(EngineFailure("The request could not be prepared."))
    ended_s = time.monotonic()
    stream.stats.prepare_ms = (ended_s - started_s) * 1000.0
    if stream.trace is not None:
        stream.trace.span("request", "queue", stream.created_s, started_s)
        stream.trace.span("request", "prepare", started_s, ended_s)


def _write_trace(trace: RequestTrace, directory: Path) -> None:
    try:
        trace.write_into(directory)
    except ConfigError as error:
        logger.warning("%s", error)
