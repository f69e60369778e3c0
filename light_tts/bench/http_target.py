"""Asks a server over HTTP and reads its audio as it arrives. aiohttp is imported where it is used: few need it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from light_tts.bench.dialects import Dialect, HttpBody
from light_tts.bench.pcm import PcmReader
from light_tts.bench.target import Piece, RequestFailed, SpeechOptions, SpeechRequest
from light_tts.types import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    import aiohttp

    from light_tts.client.errors import ClientError
    from light_tts.client.profile import ConnectionProfile
    from light_tts.client.speech_stream import SpeechDetails
    from light_tts.client.transport import Transport

# What may be 16-bit PCM or WAV; servers of the CosyVoice kind name no type at all.
_PCM_TYPES = frozenset({"audio/pcm", "audio/wav", "audio/x-wav", "audio/wave", "audio/l16", "application/octet-stream"})


class HttpTarget:
    """A server that speaks one of our dialects. Use as `async with`.

    profile:  how connections are kept, and the time limits; None: each request opens its own connection, as each
              listener would, and nothing but the load's own limit ends it.
    """

    def __init__(
        self,
        url: str,
        dialect: Dialect,
        options: SpeechOptions,
        api_key: str | None = None,
        profile: ConnectionProfile | None = None,
    ) -> None:
        self._url = url
        self._dialect = dialect
        self._options = options
        self._api_key = api_key
        self._profile = profile
        self._transport: Transport | None = None

    async def __aenter__(self) -> HttpTarget:
        from light_tts.client.profile import UNLIMITED
        from light_tts.client.transport import Transport

        self._transport = Transport(self._url, self._api_key, self._profile or UNLIMITED)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            await self._transport.close()

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Piece, None]:
        """POST the request and yield its audio. Raises RequestFailed."""
        from light_tts.client.errors import ClientError
        from light_tts.client.speech_stream import SpeechStream

        assert self._transport is not None, "HttpTarget is used within 'async with'"
        body = _payload(self._dialect.body(request, self._options))
        try:
            async with self._transport.request("POST", self._dialect.path, **body) as response:
                stream = SpeechStream(response, time.monotonic())
                reader = PcmReader(_sample_rate_hz(stream.details))
                async for piece in stream:
                    samples = reader.feed(piece.data)
                    if samples.size:
                        yield Piece(samples, reader.sample_rate_hz)
        except ClientError as error:
            raise RequestFailed(_kind(error), str(error)[:300]) from None


def _payload(body: HttpBody) -> dict[str, Any]:
    return {"json": body.json} if body.json is not None else {"data": _form(body)}


def _form(body: HttpBody) -> aiohttp.FormData:
    import aiohttp

    form = aiohttp.FormData(body.form)
    for name, content in body.files.items():
        form.add_field(name, content, filename=f"{name}.wav", content_type="audio/wav")
    return form


def _sample_rate_hz(details: SpeechDetails) -> int:
    """The rate of headerless samples. Raises RequestFailed when the answer is of a kind that cannot be counted."""
    if details.media_type not in _PCM_TYPES:
        raise RequestFailed("bad audio", f"the answer is {details.media_type}, not 16-bit PCM or WAV")
    return details.sample_rate_hz or SAMPLE_RATE_HZ


def _kind(error: ClientError) -> str:
    """What failures are counted by; the error's own code, where the body has one, tells 503s apart."""
    from light_tts.client.errors import AnswerCut, NoConnection, Refused, TimedOut

    if isinstance(error, Refused):
        return f"http {error.status} {error.code}".strip()
    kinds = {NoConnection: "no connection", AnswerCut: "connection cut", TimedOut: "timeout"}
    return kinds.get(type(error), type(error).__name__)
