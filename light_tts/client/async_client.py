"""AsyncSpeechClient: the server's endpoints as methods, on asyncio."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Unpack
from urllib.parse import quote

from light_tts.client.conversation import Conversation, opening_frame
from light_tts.client.profile import DEFAULT, ConnectionProfile
from light_tts.client.speech import ShortSpeech, SpeechOptions, VoiceInfo, speech_body
from light_tts.client.speech_stream import SpeechStream
from light_tts.client.transport import Transport

if TYPE_CHECKING:
    import aiohttp

SPEECH = "/v1/audio/speech"
VOICES = "/v1/audio/voices"
BISTREAM = "/inference_zero_shot_bistream"


class AsyncSpeechClient:
    """A client of one server. Made and used on one event loop, as `async with`.

    base_url:  of the server; a trailing `/v1` is left out.
    api_key:   sent as `Authorization: Bearer`.
    profile:   how connections are kept, and the time limits.

    Every method raises the errors of `light_tts.client.errors`.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        profile: ConnectionProfile = DEFAULT,
    ) -> None:
        self._transport = Transport(base_url, api_key, profile)

    async def __aenter__(self) -> AsyncSpeechClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    @property
    def num_connections_opened(self) -> int:
        """Connections made so far; fewer than requests when they are reused."""
        return self._transport.num_connections_opened

    async def speak(self, text: str, voice: str | None = None, **options: Unpack[SpeechOptions]) -> bytes:
        """The speech of a text as a whole file, WAV unless `response_format` says otherwise."""
        started_s = time.monotonic()
        async with self._transport.request("POST", SPEECH, json=speech_body(text, voice, options, stream=False)) as got:
            return await SpeechStream(got, started_s).read()

    @asynccontextmanager
    async def stream(
        self, text: str, voice: str | None = None, **options: Unpack[SpeechOptions]
    ) -> AsyncIterator[SpeechStream]:
        """The speech of a text while it is made; leaving the block early stops the work."""
        started_s = time.monotonic()
        async with self._transport.request("POST", SPEECH, json=speech_body(text, voice, options, stream=True)) as got:
            yield SpeechStream(got, started_s)

    async def speak_short(self, text: str, voice: str | None = None, **fields: Any) -> ShortSpeech:
        """A short text by way of the server's phrase cache (`/inference_short`)."""
        started_s = time.monotonic()
        body = {"text": text, **({} if voice is None else {"voice_template": voice}), **fields}
        async with self._transport.request("POST", "/inference_short", json=body) as got:
            data = await SpeechStream(got, started_s).read()
            cache = got.headers.get("X-Cache")
        return ShortSpeech(data, None if cache is None else cache == "HIT", time.monotonic() - started_s)

    @asynccontextmanager
    async def inference(
        self, mode: str, fields: Mapping[str, str], prompt_wav: bytes | None = None
    ) -> AsyncIterator[SpeechStream]:
        """The form endpoints: `/inference_<mode>` with these fields, and a recording where the mode wants one.

        mode:  sft, zero_shot, cross_lingual, instruct or instruct2.
        """
        started_s = time.monotonic()
        form = _form(fields, {} if prompt_wav is None else {"prompt_wav": prompt_wav})
        async with self._transport.request("POST", f"/inference_{mode}", data=form) as got:
            yield SpeechStream(got, started_s)

    @asynccontextmanager
    async def converse(
        self,
        voice: str | None = None,
        *,
        prompt_wav: bytes | None = None,
        prompt_text: str | None = None,
        **fields: Any,
    ) -> AsyncIterator[Conversation]:
        """A session in which text goes in piece by piece while its audio comes out.

        voice:       a registered name; or prompt_wav, a recording, with prompt_text, what is said in it.
        fields:      of the opening frame: seed, speed, response_format, language ...
        """
        socket = await self._transport.open_socket(BISTREAM)
        async with socket:
            talk = Conversation(socket)
            await talk.open(opening_frame(voice, prompt_text, fields), prompt_wav)
            yield talk

    async def voices(self) -> list[VoiceInfo]:
        """The voices of the server."""
        answer = await self._transport.json("GET", VOICES)
        return [VoiceInfo.from_json(values) for values in answer["data"]]

    async def add_voice(
        self,
        name: str,
        recording: bytes,
        ref_text: str | None = None,
        *,
        language: str | None = None,
        consent: str | None = None,
    ) -> VoiceInfo:
        """Keep the voice of a recording of 3 to 30 s. ref_text: what is said in it."""
        given = {"name": name, "ref_text": ref_text, "language": language, "consent": consent}
        form = _form({key: value for key, value in given.items() if value is not None}, {"audio_sample": recording})
        return VoiceInfo.from_json(await self._transport.json("POST", VOICES, data=form))

    async def remove_voice(self, name: str) -> None:
        """Forget a kept voice."""
        await self._transport.json("DELETE", f"{VOICES}/{quote(name, safe='')}")

    async def health(self) -> dict[str, Any]:
        """What `/health` says; raises ServerBusy while the server is not healthy."""
        answer: dict[str, Any] = await self._transport.json("GET", "/health")
        return answer


def _form(fields: Mapping[str, str], files: Mapping[str, bytes]) -> aiohttp.FormData:
    import aiohttp

    form = aiohttp.FormData(dict(fields))
    for name, data in files.items():
        form.add_field(name, data, filename=f"{name}.wav", content_type="audio/wav")
    return form
