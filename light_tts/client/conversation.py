"""A session over a WebSocket: text goes in piece by piece, its audio comes out meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any

import aiohttp

from light_tts.client.errors import AnswerCut, ClientError, session_refusal
from light_tts.client.speech import AudioPiece
from light_tts.client.transport import translated

_NORMAL_CLOSE = 1000
_ABNORMAL_CLOSE = 1006  # no close frame came
_ENDINGS = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)


def opening_frame(voice: str | None, prompt_text: str | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The first frame of a session."""
    named = {"spk_id": voice, "prompt_text": prompt_text}
    return {"events": True, **{name: value for name, value in named.items() if value is not None}, **fields}


class Conversation:
    """One session. Sending and iterating may go on at the same time, in two tasks.

    timings:  what the server measured, once the audio has ended: first_chunk_ms, total_ms, audio_s, chunks ...
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.timings: dict[str, Any] | None = None
        self._socket = socket
        self._started_s = time.monotonic()
        self._failure: tuple[str, str] = ("", "")

    async def open(self, frame: Mapping[str, Any], prompt_wav: bytes | None) -> None:
        """Send the opening frame, and the recording where there is one."""
        await self._send(frame)
        if prompt_wav is not None:
            with translated("The server"):
                await self._socket.send_bytes(prompt_wav)

    async def say(self, text: str) -> None:
        """Some more text; it need not end with a word or a sentence."""
        await self._send({"tts_text": text})

    async def flush(self) -> None:
        """Speak what has been sent, without waiting for more text."""
        await self._send({"flush": True})

    async def cancel(self) -> None:
        """Drop what has not been spoken yet; the session stays open."""
        await self._send({"cancel": True})

    async def finish(self) -> None:
        """No more text comes; the iteration ends when all has been spoken."""
        await self._send({"finish": True})

    async def say_all(self, texts: AsyncIterable[str] | Iterable[str]) -> None:
        """Every text as it comes, then `finish`."""
        if isinstance(texts, AsyncIterable):
            async for text in texts:
                await self.say(text)
        else:
            for text in texts:
                await self.say(text)
        await self.finish()

    def __aiter__(self) -> Conversation:
        return self

    async def __anext__(self) -> AudioPiece:
        """Audio as it arrives, 16-bit PCM unless the opening asked for something else.

        Raises AnswerCut, and Refused with the server's close code in `status`.
        """
        while True:
            with translated("The server"):
                frame = await self._socket.receive()
            if frame.type is aiohttp.WSMsgType.BINARY:
                return AudioPiece(frame.data, time.monotonic() - self._started_s)
            if frame.type is aiohttp.WSMsgType.TEXT:
                self._take(json.loads(frame.data))
            elif frame.type in _ENDINGS:
                self._check_end(self._socket.close_code)
                raise StopAsyncIteration

    async def _send(self, frame: Mapping[str, Any]) -> None:
        with translated("The server"):
            await self._socket.send_str(json.dumps(frame, ensure_ascii=False))

    def _take(self, frame: Mapping[str, Any]) -> None:
        if frame.get("event") == "end":
            self.timings = {name: value for name, value in frame.items() if name != "event"}
        elif "error" in frame:
            self._failure = str(frame["error"]), str(frame.get("error_code") or "")

    def _check_end(self, close_code: int | None) -> None:
        """Raises ClientError unless the server ended the session as it should."""
        if close_code == _NORMAL_CLOSE:
            return
        message, code = self._failure
        error: ClientError
        if close_code in (None, _ABNORMAL_CLOSE) and not message:
            error = AnswerCut("The server ended the session before its audio was complete.")
        else:
            error = session_refusal(close_code or _ABNORMAL_CLOSE, message, code)
        raise error
