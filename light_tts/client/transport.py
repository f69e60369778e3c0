"""One pool of HTTP connections to one server, and aiohttp's errors in this package's words."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from light_tts.client.errors import AnswerCut, ClientError, NoConnection, TimedOut, refusal
from light_tts.client.profile import ConnectionProfile

try:
    import aiohttp
except ImportError as error:
    raise ImportError("light_tts.client needs aiohttp; install it with: pip install light-tts[client]") from error


class Transport:
    """Belongs to one event loop, on which it is made.

    base_url:  of the server, without a path: "http://127.0.0.1:8080".
    """

    def __init__(self, base_url: str, api_key: str | None, profile: ConnectionProfile) -> None:
        self.num_connections_opened = 0
        self._base_url = base_url.rstrip("/").removesuffix("/v1")
        self._profile = profile
        headers = {"Accept-Encoding": "identity"}
        if api_key is not None:
            headers["Authorization"] = f"Bearer {api_key}"
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=profile.limit,
                limit_per_host=profile.limit_per_host,
                ttl_dns_cache=profile.dns_cache_s,
                **({"keepalive_timeout": profile.keep_alive_s} if profile.keep_alive_s else {"force_close": True}),
            ),
            timeout=aiohttp.ClientTimeout(total=profile.total_s, connect=profile.connect_s, sock_read=profile.read_s),
            headers=headers,
            trace_configs=[self._watching()],
        )

    @contextlib.asynccontextmanager
    async def request(self, method: str, path: str, **body: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that is no refusal, its body still to be read. body: aiohttp's `json`, `data`, `params`.

        Raises NoConnection, TimedOut, AnswerCut, Refused.
        """
        with translated(self._base_url):
            response = await self._send(method, path, body)
        # What happens in the caller's block is not ours to translate.
        async with response:
            if response.status >= 400:
                with translated(self._base_url):
                    text = await response.text(errors="replace")
                raise refusal(response.status, text, response.headers)
            yield response

    async def json(self, method: str, path: str, **body: Any) -> Any:
        """The JSON of an answer."""
        async with self.request(method, path, **body) as response:
            with translated(self._base_url):
                return await response.json()

    async def open_socket(self, path: str) -> aiohttp.ClientWebSocketResponse:
        """A WebSocket. Raises NoConnection, TimedOut, Refused."""
        with translated(self._base_url):
            return await self.session.ws_connect(self._base_url + path, max_msg_size=0, heartbeat=20.0)

    async def close(self) -> None:
        """Close all connections."""
        await self.session.close()

    async def _send(self, method: str, path: str, body: Mapping[str, Any]) -> aiohttp.ClientResponse:
        seen: dict[str, bool] = {}
        try:
            return await self.session.request(method, self._base_url + path, trace_request_ctx=seen, **body)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not seen.get("is_reused"):
                raise
        # The server closed a kept connection in the moment of its reuse; nothing of an answer had come.
        return await self.session.request(method, self._base_url + path, **body)

    def _watching(self) -> aiohttp.TraceConfig:
        async def opened(*_: object) -> None:
            self.num_connections_opened += 1

        async def reused(_: aiohttp.ClientSession, context: Any, __: object) -> None:
            if context.trace_request_ctx is not None:
                context.trace_request_ctx["is_reused"] = True

        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(opened)
        trace.on_connection_reuseconn.append(reused)
        return trace


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """aiohttp's errors as ClientErrors."""
    try:
        yield
    except ClientError:
        raise
    except TimeoutError as error:  # aiohttp's are of this kind too
        raise TimedOut(f"{where} took longer than the connection profile allows.") from error
    except aiohttp.WSServerHandshakeError as error:
        raise refusal(error.status, "", error.headers or {}) from error
    except aiohttp.ClientConnectionError as error:
        if isinstance(error, aiohttp.ClientConnectorError):
            raise NoConnection(f"{where} cannot be reached: {error.strerror or error}.") from error
        raise AnswerCut(f"{where} ended the connection before its answer was complete.") from error
    except aiohttp.ClientPayloadError as error:
        raise AnswerCut(f"{where} ended the connection before the audio was complete.") from error
    except aiohttp.InvalidURL as error:
        raise NoConnection(f"{where} is not an address of a server; write it like http://127.0.0.1:8080.") from error
