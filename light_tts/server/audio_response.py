"""An answer made of speech: holds the status until the first audio, streams or completes, ends with its client.

Before the first byte every failure is raised, so that the caller gets an ordinary error answer. After it the answer is
left unfinished (BrokenAnswer) and the HTTP server cuts the connection: a clean end would look like a whole file.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from light_tts.audio_output import FORMATS, StreamEncoder, encode_complete, open_encoder
from light_tts.errors import Cancelled, LightTTSError
from light_tts.server.errors import BrokenAnswer
from light_tts.server.framing import Framing, RawFraming
from light_tts.server.request_record import RequestRecord
from light_tts.server.speech_fields import AudioOutput
from light_tts.types import SAMPLE_RATE_HZ, AudioChunk

if TYPE_CHECKING:
    from light_tts.audio_stream import AudioStream

logger = logging.getLogger(__name__)

PING_S = 15.0


class AudioResponse(Response):
    """Sends one AudioStream. Cancels it when the client leaves, also while nothing has been sent.

    send_timeout_s:   a client that does not read for so long has left.
    headers:          besides those every audio answer has.
    """

    def __init__(
        self,
        stream: AudioStream,
        output: AudioOutput,
        record: RequestRecord,
        *,
        send_timeout_s: float,
        framing: Framing | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(headers)
        self._stream = stream
        self._output = output
        self._record = record
        self._send_timeout_s = send_timeout_s
        self._framing = framing or RawFraming()
        self._is_started = False
        stream.hold()  # what has been read is not sent yet
        record.stats = stream.stats

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Raises the request's error before the first byte, BrokenAnswer after it."""
        answer = self._send_stream(send) if self._output.stream else self._send_complete(send)
        sender = asyncio.create_task(answer)
        watcher = asyncio.create_task(_until_disconnect(receive))
        try:
            await asyncio.wait({sender, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if not sender.done():
                self._record.has_left = True
                return
            self._raise_failure(sender.exception())
        finally:
            self._stream.cancel()
            sender.cancel()
            watcher.cancel()
            await asyncio.gather(sender, watcher, return_exceptions=True)

    def _raise_failure(self, error: BaseException | None) -> None:
        if error is None:
            return
        if isinstance(error, OSError):  # the socket is gone, or its reader has stopped reading (TimeoutError)
            self._record.has_left = True
            if self._is_started:
                raise BrokenAnswer("the client stopped reading") from error
            return
        if isinstance(error, Exception):
            self._record.error = error
        if not self._is_started:
            raise error
        if not isinstance(error, LightTTSError):
            logger.error("request %s failed after its first byte", self._record.request_id, exc_info=error)
        raise BrokenAnswer(f"request {self._record.request_id} failed after its first byte") from error

    async def _send_stream(self, send: Send) -> None:
        encoder = open_encoder(self._output.format_name, self._output.sample_rate_hz)
        playback = _Playback(self._record.late_s)
        try:
            async for chunk in _with_pauses(self._stream, PING_S if self._framing.ping else None):
                if chunk is None:
                    if self._is_started:
                        await self._send_body(send, self._framing.ping)
                    continue
                audio = await _encoded(encoder, chunk.samples)
                if audio:
                    await self._send_piece(send, audio, encoder)
                    playback.sent(chunk)
            self._check_whole()
            audio = await asyncio.to_thread(encoder.finish)
        except LightTTSError as error:
            if self._is_started and self._framing.failure(error):
                await self._send_body(send, self._framing.failure(error))
            raise
        if audio:
            await self._send_piece(send, audio, encoder)
        elif not self._is_started:
            await self._start(send, encoder.sample_rate_hz)
        await self._send_body(send, self._framing.end(self._stream.stats), last=True)

    async def _send_complete(self, send: Send) -> None:
        pieces = [chunk.samples async for chunk in self._stream]
        self._check_whole()
        samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
        name, rate_hz = self._output.format_name, self._output.sample_rate_hz
        audio = await asyncio.to_thread(encode_complete, samples, name, rate_hz)
        body = self._framing.piece(audio) + self._framing.end(self._stream.stats)
        await self._start(send, rate_hz, num_bytes=len(body))
        await self._send_body(send, body, last=True)

    def _check_whole(self) -> None:
        """A stream cancelled from the engine's side ends quietly; its audio is not whole."""
        if self._stream.stats.finish == "abort":
            raise Cancelled("The server ended the request before its audio was complete.")

    async def _send_piece(self, send: Send, audio: bytes, encoder: StreamEncoder) -> None:
        if not self._is_started:
            await self._start(send, encoder.sample_rate_hz)
        await self._send_body(send, self._framing.piece(audio))

    async def _start(self, send: Send, rate_hz: int, num_bytes: int | None = None) -> None:
        headers = MutableHeaders(raw=list(self.raw_headers))
        name = self._output.format_name
        headers["Content-Type"] = self._framing.media_type or _media_type(name, rate_hz)
        headers["Cache-Control"] = "no-cache"
        headers["X-Accel-Buffering"] = "no"
        headers["X-Sample-Rate"] = str(rate_hz)
        headers["X-Audio-Format"] = "s16le" if name in ("pcm", "wav") else name
        headers["X-Channels"] = "1"
        if self._stream.stats.is_phrase_cached is not None:
            headers["X-Cache"] = "HIT" if self._stream.stats.is_phrase_cached else "MISS"
        if num_bytes is not None:
            headers["Content-Length"] = str(num_bytes)
        self._record.mark_first_audio()
        self._is_started = True
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers.raw})

    async def _send_body(self, send: Send, body: bytes, *, last: bool = False) -> None:
        async with asyncio.timeout(self._send_timeout_s):
            await send({"type": "http.response.body", "body": body, "more_body": not last})


def _media_type(format_name: str, rate_hz: int) -> str:
    """Headerless samples of another rate than the usual one say so: some clients read the parameters."""
    media_type = FORMATS[format_name].media_type
    if format_name == "pcm" and rate_hz != SAMPLE_RATE_HZ:
        return f"{media_type}; rate={rate_hz}; channels=1"
    return media_type


def header_text(value: str) -> str:
    """A text in the letters a header may have."""
    return quote(value, safe=" -_.:/@+")


class _Playback:
    """Compares the chunks of one stream with a player that began at the first of them; adds to `late_s`."""

    def __init__(self, late_s: list[float]) -> None:
        self._late_s = late_s
        self._runs_dry_s: float | None = None

    def sent(self, chunk: AudioChunk) -> None:
        now_s = time.monotonic()
        if self._runs_dry_s is None:
            self._runs_dry_s = now_s
        else:
            self._late_s.append(max(0.0, now_s - self._runs_dry_s))
        # After an underrun the player goes on from now.
        self._runs_dry_s = max(now_s, self._runs_dry_s) + chunk.samples.size / SAMPLE_RATE_HZ


async def _encoded(encoder: StreamEncoder, samples: np.ndarray) -> bytes:
    return encoder.encode(samples) if encoder.is_cheap else await asyncio.to_thread(encoder.encode, samples)


async def _with_pauses(stream: AudioStream, pause_s: float | None) -> AsyncIterator[AudioChunk | None]:
    """The stream's chunks; None whenever `pause_s` went by without one."""
    chunks = aiter(stream)
    while True:
        following = asyncio.ensure_future(anext(chunks))
        try:
            while not (await asyncio.wait({following}, timeout=pause_s))[0]:
                yield None
            yield following.result()
        except StopAsyncIteration:
            return
        finally:
            following.cancel()


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
