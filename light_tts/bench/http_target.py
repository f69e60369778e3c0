"""Asks a server over HTTP and reads its audio as it arrives. aiohttp is imported where it is used: few need it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import TYPE_CHECKING

from light_tts.bench.dialects import Dialect, HttpBody
from light_tts.bench.pcm import PcmReader
from light_tts.bench.target import Piece, RequestFailed, SpeechOptions, SpeechRequest
from light_tts.types import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    import aiohttp

# What may be 16-bit PCM or WAV; servers of the CosyVoice kind name no type at all.
_PCM_TYPES = frozenset({"audio/pcm", "audio/wav", "audio/x-wav", "audio/wave", "audio/l16", "application/octet-stream"})


class HttpTarget:
    """A server that speaks one of our dialects. Use as `async with`.

    Each request opens its own connection, as each listener would; kept-alive ones would also fail at random when the
    server closes them in the moment of reuse.
    """

    def __init__(self, url: str, dialect: Dialect, options: SpeechOptions, api_key: str | None = None) -> None:
        self._url = url.rstrip("/") + dialect.path
        self._dialect = dialect
        self._options = options
        self._headers = {"Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> HttpTarget:
        import aiohttp

        # No limit and no time-out of aiohttp's own: the load decides both.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
            headers=self._headers,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Piece, None]:
        """POST the request and yield its audio. Raises RequestFailed."""
        import aiohttp

        assert self._session is not None, "HttpTarget is used within 'async with'"
        body = self._dialect.body(request, self._options)
        try:
            async with self._session.post(self._url, json=body.json, data=_form(body)) as response:
                if response.status != 200:
                    raise _refusal(response.status, await response.text(errors="replace"))
                reader = PcmReader(_sample_rate_hz(response))
                async for data in response.content.iter_any():
                    samples = reader.feed(data)
                    if samples.size:
                        yield Piece(samples, reader.sample_rate_hz)
        except aiohttp.ClientConnectorError as error:
            raise RequestFailed("no connection", str(error)) from None
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            raise RequestFailed("connection cut", str(error) or type(error).__name__) from None
        except aiohttp.ClientError as error:
            raise RequestFailed(type(error).__name__, str(error)) from None


def _form(body: HttpBody) -> aiohttp.FormData | None:
    if body.json is not None:
        return None
    import aiohttp

    form = aiohttp.FormData(body.form)
    for name, content in body.files.items():
        form.add_field(name, content, filename=f"{name}.wav", content_type="audio/wav")
    return form


def _sample_rate_hz(response: aiohttp.ClientResponse) -> int:
    """The rate of headerless samples. Raises RequestFailed when the answer is of a kind that cannot be counted."""
    if response.content_type not in _PCM_TYPES:
        raise RequestFailed("bad audio", f"the answer is {response.content_type}, not 16-bit PCM or WAV")
    stated = response.headers.get("X-Sample-Rate", "")
    return int(stated) if stated.isdecimal() and int(stated) else SAMPLE_RATE_HZ


def _refusal(status: int, text: str) -> RequestFailed:
    """The failure behind a status; the error's own code, where the body has one, tells 503s apart."""
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {}
    if not isinstance(answer, dict):
        answer = {}
    inner = answer.get("error")
    details = inner if isinstance(inner, dict) else answer
    code = details.get("error_code") or details.get("code") or ""
    message = details.get("message") or details.get("detail") or text
    return RequestFailed(f"http {status} {code}".strip(), str(message)[:300])
