"""SpeechClient: the same methods for code without asyncio. An event loop on a thread of its own does the work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Unpack

from light_tts.client.async_client import AsyncSpeechClient
from light_tts.client.conversation import Conversation
from light_tts.client.loop_thread import LoopThread
from light_tts.client.profile import DEFAULT, ConnectionProfile
from light_tts.client.speech import AudioPiece, ShortSpeech, SpeechOptions, VoiceInfo
from light_tts.client.speech_stream import SpeechDetails, SpeechStream


class SpeechClient:
    """A client of one server; see AsyncSpeechClient for its methods and errors. Safe from many threads.

    Close it, or use it as `with`.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        profile: ConnectionProfile = DEFAULT,
    ) -> None:
        self._loop = LoopThread()

        async def make() -> AsyncSpeechClient:
            return AsyncSpeechClient(base_url, api_key=api_key, profile=profile)

        self._client = self._loop.run(make())

    def __enter__(self) -> SpeechClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread."""
        self._loop.run(self._client.close())
        self._loop.close()

    @property
    def num_connections_opened(self) -> int:
        """Connections made so far; fewer than requests when they are reused."""
        return self._client.num_connections_opened

    def speak(self, text: str, voice: str | None = None, **options: Unpack[SpeechOptions]) -> bytes:
        """The speech of a text as a whole file, WAV unless `response_format` says otherwise."""
        return self._loop.run(self._client.speak(text, voice, **options))

    @contextmanager
    def stream(self, text: str, voice: str | None = None, **options: Unpack[SpeechOptions]) -> Iterator[BlockingStream]:
        """The speech of a text while it is made; leaving the block early stops the work."""
        with self._loop.entered(self._client.stream(text, voice, **options)) as speech:
            yield BlockingStream(self._loop, speech)

    def speak_short(self, text: str, voice: str | None = None, **fields: Any) -> ShortSpeech:
        """A short text by way of the server's phrase cache (`/inference_short`)."""
        return self._loop.run(self._client.speak_short(text, voice, **fields))

    @contextmanager
    def inference(
        self, mode: str, fields: Mapping[str, str], prompt_wav: bytes | None = None
    ) -> Iterator[BlockingStream]:
        """The form endpoints: `/inference_<mode>` with these fields, and a recording where the mode wants one."""
        with self._loop.entered(self._client.inference(mode, fields, prompt_wav)) as speech:
            yield BlockingStream(self._loop, speech)

    @contextmanager
    def converse(
        self,
        voice: str | None = None,
        *,
        prompt_wav: bytes | None = None,
        prompt_text: str | None = None,
        **fields: Any,
    ) -> Iterator[BlockingConversation]:
        """A session in which text goes in piece by piece while its audio comes out."""
        session = self._client.converse(voice, prompt_wav=prompt_wav, prompt_text=prompt_text, **fields)
        with self._loop.entered(session) as talk:
            yield BlockingConversation(self._loop, talk)

    def voices(self) -> list[VoiceInfo]:
        """The voices of the server."""
        return self._loop.run(self._client.voices())

    def add_voice(
        self,
        name: str,
        recording: bytes,
        ref_text: str | None = None,
        *,
        language: str | None = None,
        consent: str | None = None,
    ) -> VoiceInfo:
        """Keep the voice of a recording of 3 to 30 s. ref_text: what is said in it."""
        return self._loop.run(self._client.add_voice(name, recording, ref_text, language=language, consent=consent))

    def remove_voice(self, name: str) -> None:
        """Forget a kept voice."""
        self._loop.run(self._client.remove_voice(name))

    def health(self) -> dict[str, Any]:
        """What `/health` says; raises ServerBusy while the server is not healthy."""
        return self._loop.run(self._client.health())


class BlockingStream:
    """A SpeechStream for `for`."""

    def __init__(self, loop: LoopThread, stream: SpeechStream) -> None:
        self._loop = loop
        self._stream = stream

    @property
    def details(self) -> SpeechDetails:
        """What is known of the answer besides its audio."""
        return self._stream.details

    def __iter__(self) -> Iterator[AudioPiece]:
        return self._loop.iterate(self._stream)

    def read(self) -> bytes:
        """All that has not been read yet."""
        return self._loop.run(self._stream.read())


class BlockingConversation:
    """A Conversation for `for`. One thread may iterate while another sends."""

    def __init__(self, loop: LoopThread, talk: Conversation) -> None:
        self._loop = loop
        self._talk = talk

    @property
    def timings(self) -> dict[str, Any] | None:
        """What the server measured, once the audio has ended."""
        return self._talk.timings

    def __iter__(self) -> Iterator[AudioPiece]:
        return self._loop.iterate(self._talk)

    def say(self, text: str) -> None:
        """Some more text; it need not end with a word or a sentence."""
        self._loop.run(self._talk.say(text))

    def say_all(self, texts: Iterable[str]) -> None:
        """Every text as it comes, then `finish`."""
        for text in texts:
            self.say(text)
        self.finish()

    def flush(self) -> None:
        """Speak what has been sent, without waiting for more text."""
        self._loop.run(self._talk.flush())

    def cancel(self) -> None:
        """Drop what has not been spoken yet; the session stays open."""
        self._loop.run(self._talk.cancel())

    def finish(self) -> None:
        """No more text comes; the iteration ends when all has been spoken."""
        self._loop.run(self._talk.finish())
