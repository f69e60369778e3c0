"""One HTTP answer, as its audio arrives."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from light_tts.client.speech import AudioPiece
from light_tts.client.transport import translated

if TYPE_CHECKING:
    import aiohttp


@dataclass
class SpeechDetails:
    """What is known of an answer besides its audio.

    media_type:      what the server says it is: "audio/wav", "audio/pcm" ...
    sample_rate_hz:  of the audio; None when the server did not say.
    request_id:      under which the server's log has it.
    voice:           which voice speaks.
    first_audio_s:   seconds from the request to the first piece; None until then.
    total_s:         the same for the end; None until then.
    """

    media_type: str
    sample_rate_hz: int | None = None
    request_id: str | None = None
    voice: str | None = None
    first_audio_s: float | None = None
    total_s: float | None = None


class SpeechStream:
    """Iterate it once for the pieces of the audio file. Raises AnswerCut, TimedOut."""

    def __init__(self, response: aiohttp.ClientResponse, started_s: float) -> None:
        headers = response.headers
        rate = headers.get("X-Sample-Rate", "")
        self.details = SpeechDetails(
            response.content_type,
            int(rate) if rate.isdecimal() else None,
            headers.get("X-Request-Id"),
            headers.get("X-Voice"),
        )
        self._response = response
        self._started_s = started_s

    def __aiter__(self) -> SpeechStream:
        return self

    async def __anext__(self) -> AudioPiece:
        with translated(str(self._response.url.origin())):
            data = await self._response.content.readany()
        now_s = time.monotonic() - self._started_s
        if not data:
            self.details.total_s = self.details.total_s or now_s
            raise StopAsyncIteration
        if self.details.first_audio_s is None:
            self.details.first_audio_s = now_s
        return AudioPiece(data, now_s)

    async def read(self) -> bytes:
        """All that has not been read yet."""
        return b"".join([piece.data async for piece in self])
