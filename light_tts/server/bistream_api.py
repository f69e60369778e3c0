"""`WS /inference_zero_shot_bistream`: text goes in piece by piece while its audio comes out.

Frames from the client: a JSON object that opens the session, the prompt recording as one binary frame (not when
`spk_id` names a voice), then JSON objects with `tts_text`, `flush`, `cancel` or `finish`. Frames to the client: audio.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from light_tts.audio_output import StreamEncoder, open_encoder
from light_tts.errors import Cancelled, InvalidRequest, LightTTSError, TextTooLong
from light_tts.server.bistream_frames import SessionOptions, TextFrame, read_options_frame, read_text_frame
from light_tts.server.errors import error_body, websocket_code
from light_tts.server.request_body import parse_json
from light_tts.server.request_record import RequestRecord
from light_tts.server.speech_fields import check_recording_size, recorded_voice
from light_tts.server.state import ServerState, request_record, server_state

if TYPE_CHECKING:
    from light_tts.text_stream import TextStream

logger = logging.getLogger(__name__)

MAX_REASON_BYTES = 123  # of a WebSocket close frame

router = APIRouter()


@router.websocket("/inference_zero_shot_bistream")
async def inference_zero_shot_bistream(socket: WebSocket) -> None:
    """One session: see the module."""
    state, record = server_state(socket), request_record(socket)
    session = _Session(socket, state, record)
    task = asyncio.current_task()
    assert task is not None
    state.sessions.add(task)
    task.add_done_callback(state.sessions.discard)
    await socket.accept()
    try:
        await session.run()
        await socket.close(1000)
    except WebSocketDisconnect:
        record.has_left = True
    except LightTTSError as error:
        await _close_with(socket, record, error)
    except Exception as error:
        logger.exception("session %s failed", record.request_id)
        await _close_with(socket, record, error)
    finally:
        await session.close()


async def _close_with(socket: WebSocket, record: RequestRecord, error: Exception) -> None:
    record.error = error
    body = error_body(error, openai=False)
    message = str(body.pop("message"))
    try:
        await socket.send_json({"error": message, **body})
        reason = message.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore")
        await socket.close(websocket_code(error), reason)
    except (WebSocketDisconnect, RuntimeError):
        record.has_left = True  # it left before it could be told


class _IdleTooLong(InvalidRequest):
    code = "IDLE_TIMEOUT"


class _Session:
    """The state machine of one connection. Runs on the event loop alone.

    The text stream is opened with the session, so that the voice is prepared early. Frames are read ahead of the work,
    up to `ws_max_queue` of them, so that a client that leaves is noticed at once.
    """

    def __init__(self, socket: WebSocket, state: ServerState, record: RequestRecord) -> None:
        self._socket = socket
        self._state = state
        self._record = record
        self._options: SessionOptions | None = None
        self._encoder: StreamEncoder | None = None
        self._stream: TextStream | None = None
        self._speaker: asyncio.Task[None] | None = None
        self._frames: asyncio.Queue[dict[str, Any]] = asyncio.Queue(state.settings.server.ws_max_queue)
        self._reading: asyncio.Task[None] | None = None
        self._num_chars = 0  # since the last `cancel`
        self._is_finishing = False
        self._last_activity_s = time.monotonic()

    async def run(self) -> None:
        """Until all text has been spoken. Raises WebSocketDisconnect and the session's errors."""
        self._reading = asyncio.create_task(self._read_ahead())
        opening = self._json(await self._next_frame())
        if opening.keys() == {"finish"}:
            return  # nothing to say
        self._options = options = read_options_frame(opening, self._state, self._record)
        self._record.voice, self._record.model = options.voice_name, options.request.model
        first: TextFrame | None = None
        if options.needs_recording:
            frame = await self._next_frame()
            recording = frame.get("bytes")
            if recording is None:
                if read_text_frame(self._json(frame)).is_bare_finish:
                    return
                raise InvalidRequest(
                    "Send the prompt recording as a binary frame, or spk_id in the first one.", "spk_id"
                )
            check_recording_size(recording, "prompt_wav", self._state.settings)
            voice = recorded_voice(recording, options.prompt_text, "prompt_wav", self._state.settings)
            self._options = options = options.with_voice(voice)
        elif TextFrame.is_in(opening):
            first = read_text_frame(opening)
        self._record.mark_received()
        self._encoder = open_encoder(options.output.format_name, options.output.sample_rate_hz)
        self._stream = self._state.ready_engine().open_text_stream(options.request)
        self._record.stats = self._stream.stats
        self._speaker = asyncio.create_task(self._speak(self._stream))
        await self._converse(first)

    async def close(self) -> None:
        """Free everything; the work stops within one step."""
        tasks = [task for task in (self._reading, self._speaker) if task is not None]
        self._stop_speaking()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop_speaking(self) -> None:
        if self._speaker is not None:
            self._speaker.cancel()
        if self._stream is not None:
            self._stream.cancel()
        self._speaker = None

    async def _converse(self, first: TextFrame | None) -> None:
        """Read frames and send audio at the same time, until the text has ended and its audio too."""
        if first is not None:
            await self._take(first)
        arriving = asyncio.create_task(self._frames.get())
        try:
            while self._speaker is not None or not self._is_finishing:
                await self._wait_for(arriving, *([self._speaker] if self._speaker is not None else []))
                if self._speaker is not None and self._speaker.done():
                    self._speaker.result()
                    self._speaker = None
                elif arriving.done():
                    frame = read_text_frame(self._json(arriving.result()))
                    arriving = asyncio.create_task(self._frames.get())
                    await self._take(frame)
                else:
                    self._check_idle()
        finally:
            arriving.cancel()
            await asyncio.gather(arriving, return_exceptions=True)
        await self._send_end()

    async def _read_ahead(self) -> None:
        while True:
            await self._frames.put(_checked(await self._socket.receive()))

    async def _wait_for(self, *tasks: asyncio.Task[Any]) -> None:
        """Until one of them is done or the session has been idle too long. Raises WebSocketDisconnect."""
        assert self._reading is not None
        idle_left_s = None if self._is_finishing else self._idle_left_s()
        await asyncio.wait({*tasks, self._reading}, timeout=idle_left_s, return_when=asyncio.FIRST_COMPLETED)
        if self._reading.done():
            self._reading.result()

    async def _take(self, frame: TextFrame) -> None:
        """Act on one frame. On a thread where text is read or a lock of the engine taken: others would wait for it."""
        stream = self._stream
        assert stream is not None
        self._last_activity_s = time.monotonic()
        if self._is_finishing:
            if frame.cancel:
                self._stop_speaking()
            return
        if frame.cancel:
            self._num_chars = 0
            await asyncio.to_thread(stream.discard)
        if frame.text:
            self._count(frame.text)
            await asyncio.to_thread(stream.feed, frame.text)
        if frame.flush:
            await asyncio.to_thread(stream.flush)
        if frame.finish:
            self._is_finishing = True
            if self._record.text_chars:
                await asyncio.to_thread(stream.finish_text)
            else:
                self._stop_speaking()  # there is nothing to wait for, not even the voice

    def _count(self, text: str) -> None:
        self._record.text_chars = (self._record.text_chars or 0) + len(text)
        self._num_chars += len(text)
        limit = self._state.settings.frontend.max_text_chars
        if limit and self._num_chars > limit:
            raise TextTooLong(
                f"The texts of this session have {self._num_chars} characters; the limit is {limit}.", "tts_text"
            )

    async def _speak(self, stream: TextStream) -> None:
        assert self._encoder is not None
        async for chunk in stream:
            if self._encoder.is_cheap:
                audio = self._encoder.encode(chunk.samples)
            else:
                audio = await asyncio.to_thread(self._encoder.encode, chunk.samples)
            if audio:
                self._record.mark_first_audio()
                await self._send_audio(audio)
        if stream.stats.finish == "abort":
            raise Cancelled("The server ended the session before its audio was complete.")

    async def _send_audio(self, audio: bytes) -> None:
        self._last_activity_s = time.monotonic()
        try:
            async with asyncio.timeout(self._state.settings.engine.request_timeout_s):
                await self._socket.send_bytes(audio)
        except (TimeoutError, RuntimeError, OSError):
            raise WebSocketDisconnect(1006) from None

    async def _send_end(self) -> None:
        assert self._encoder is not None
        assert self._options is not None
        tail = await asyncio.to_thread(self._encoder.finish)
        if tail and self._record.first_audio_s is not None:
            await self._send_audio(tail)
        stats = self._record.stats
        if self._options.wants_events and stats is not None:
            await self._socket.send_json(
                {
                    "event": "end",
                    "first_chunk_ms": stats.first_chunk_ms,
                    "total_ms": stats.total_ms,
                    "audio_s": round(stats.audio_s, 3),
                    "chunks": stats.chunks,
                    "text_tokens": stats.text_tokens,
                    "speech_tokens": stats.speech_tokens,
                }
            )

    async def _next_frame(self) -> dict[str, Any]:
        arriving = asyncio.create_task(self._frames.get())
        try:
            await self._wait_for(arriving)
            if not arriving.done():
                raise self._idle_too_long()
            self._last_activity_s = time.monotonic()
            return arriving.result()
        finally:
            arriving.cancel()

    def _idle_left_s(self) -> float:
        limit_s = self._state.settings.server.ws_idle_timeout_s
        return max(0.01, self._last_activity_s + limit_s - time.monotonic())

    def _check_idle(self) -> None:
        limit_s = self._state.settings.server.ws_idle_timeout_s
        if time.monotonic() - self._last_activity_s >= limit_s:
            raise self._idle_too_long()

    def _idle_too_long(self) -> _IdleTooLong:
        limit_s = self._state.settings.server.ws_idle_timeout_s
        return _IdleTooLong(f"Nothing came for {limit_s:g} s; the session is closed.")

    @staticmethod
    def _json(frame: dict[str, Any]) -> dict[str, Any]:
        text = frame.get("text")
        if text is None:
            raise InvalidRequest("A text frame with a JSON object was expected here, not a binary one.")
        return parse_json(text.encode("utf-8", "surrogatepass"))


def _checked(frame: Any) -> dict[str, Any]:
    if frame["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(frame.get("code", 1005))
    return dict(frame)
