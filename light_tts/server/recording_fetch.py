"""Fetches a recording from an address a caller gave, where the operator allows it: only from allowed hosts, never from
addresses of the inner network by way of a name, without redirects, with limits of size and time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from light_tts.errors import BadAudio, ConfigError, Unsupported
from light_tts.server.errors import RequestTooLarge

if TYPE_CHECKING:
    from aiohttp.abc import AbstractResolver

    from light_tts.settings import Settings

TIMEOUT_S = 10.0
MAX_URL_CHARS = 4096
ANY_PUBLIC_HOST = "*"


def check_can_fetch(settings: Settings) -> None:
    """Raises ConfigError when fetching is switched on, but what it needs is not installed."""
    if settings.server.ref_audio_hosts:
        try:
            import aiohttp  # noqa: F401
        except ImportError:
            raise ConfigError(
                "ref_audio_hosts needs the package 'aiohttp'; install it with: pip install light-tts[client]"
            ) from None


def is_address(text: str) -> bool:
    """True for texts with a scheme, `data:` aside: they would name a place, where base64 is a recording itself."""
    scheme, colon, _ = text.lstrip()[:16].partition(":")
    return bool(colon) and scheme.lower() != "data"


async def fetch_recording(url: str, field: str, settings: Settings) -> bytes:
    """The bytes behind an http(s) address.

    Raises Unsupported for other schemes and hosts that are not allowed, BadAudio when nothing could be fetched,
    RequestTooLarge over the limit of uploads.
    """
    import aiohttp

    host = _allowed_host(url, field, settings)
    limit_mb = settings.frontend.max_upload_mb
    # A host that is listed may be anywhere, also in this network: the operator has said so.
    resolver = None if host in settings.server.ref_audio_hosts else _public_resolver()
    connector = aiohttp.TCPConnector(resolver=resolver, force_close=True)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise BadAudio(f"{field} could not be fetched: its host answered {response.status}.", field)
            data = bytearray()
            async for piece in response.content.iter_chunked(2**16):
                data += piece
                if len(data) > limit_mb * 2**20:
                    raise RequestTooLarge(f"{field} is larger than {limit_mb} MB.", field)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        raise BadAudio(f"{field} could not be fetched from its host.", field) from None
    return bytes(data)


def _allowed_host(url: str, field: str, settings: Settings) -> str:
    hosts = settings.server.ref_audio_hosts
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").lower()
    except ValueError:
        raise Unsupported(f"{field} is no address that can be fetched.", field) from None
    if parts.scheme.lower() not in ("http", "https") or not hosts:
        raise Unsupported(f"{field} is not fetched from an address; send it as base64 or a data: URL.", field)
    if host in hosts:
        return host
    if ANY_PUBLIC_HOST not in hosts or not _may_be_public(host):
        raise Unsupported(f"{field} is not fetched from the host {host[:80]!r}; it is not among those allowed.", field)
    return host


def _may_be_public(host: str) -> bool:
    """False for a literal address that is not; names are judged by what they resolve to."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return bool(host)


def _public_resolver() -> AbstractResolver:
    """A resolver that fails for names of addresses that are not public."""
    from aiohttp.abc import AbstractResolver, ResolveResult
    from aiohttp.resolver import ThreadedResolver

    class PublicResolver(AbstractResolver):
        def __init__(self) -> None:
            self._inner = ThreadedResolver(asyncio.get_running_loop())

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            found = await self._inner.resolve(host, port, family)
            if not all(ipaddress.ip_address(each["host"]).is_global for each in found):
                raise OSError(f"{host} is not a public host")
            return found

        async def close(self) -> None:
            await self._inner.close()

    return PublicResolver()
