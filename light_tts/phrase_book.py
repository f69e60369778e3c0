"""Short texts answered from the cache, or spoken once for all who ask at the same time (spec: server, 6.2).

The engine hands over the requests that it `takes`; what it knows of the models is two functions.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from light_tts.audio_stream import AudioStream
from light_tts.errors import ConfigError, EngineFailure, LightTTSError, Overloaded, UnknownVoice
from light_tts.phrase_cache import PhraseCache, PhraseCacheStats
from light_tts.settings import ShortTextSettings
from light_tts.shared_speech import SharedSpeech
from light_tts.types import AudioChunk, FinishReason, PreparedRequest, RegisteredVoice, SynthesisRequest

logger = logging.getLogger(__name__)

EXAMPLE_TEMPLATES = ("您好", "谢谢", "再见", "请稍等", "正在处理中")
MAX_LOOKUPS = 1024  # that wait for the book's thread; each takes it a fraction of a millisecond

PRELOAD_TIMEOUT_S = 60.0


def is_phrase(request: SynthesisRequest, settings: ShortTextSettings) -> bool:
    """True for a short text in a registered voice that may sound as it did before."""
    wanted = settings.short_cache_all if request.phrase_cache is None else request.phrase_cache
    return (
        wanted
        and settings.short_cache_mb > 0
        and request.seed is None
        and not request.is_probe  # it asks the models
        and (request.voice is None or isinstance(request.voice, str | RegisteredVoice))
        and len(request.text) <= settings.short_template_max_chars
    )


class PhraseBook:
    """Answers cacheable requests. A hit costs no model's time and no place among the running requests.

    prepare:      a request in the terms of the models, and its key (`phrase_key`).
    open_stream:  the stream of a synthesis.
    begin:        starts it; the last argument is False when it shall take no place, as nobody waits for it. Raises what
                  admission raises.
    """

    def __init__(
        self,
        settings: ShortTextSettings,
        *,
        prepare: Callable[[SynthesisRequest], tuple[PreparedRequest, bytes]],
        open_stream: Callable[[SynthesisRequest], SharedSpeech],
        begin: Callable[[SharedSpeech, SynthesisRequest, PreparedRequest, bool], None],
    ) -> None:
        self._settings = settings
        self._prepare = prepare
        self._open_stream = open_stream
        self._begin = begin
        self._cache = PhraseCache(settings.short_cache_mb * 2**20)
        self._lock = threading.Lock()
        self._in_flight: dict[tuple[bytes, bool], SharedSpeech] = {}
        self._num_lookups = self._num_hits = self._num_misses = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="phrases")
        self._preloading: threading.Thread | None = None
        self._is_closed = False

    def stats(self) -> PhraseCacheStats:
        """How the cache does. Preloading counts neither as hit nor as miss."""
        return PhraseCacheStats(len(self._cache), self._cache.used_bytes, self._num_hits, self._num_misses)

    def takes(self, request: SynthesisRequest) -> bool:
        """See `is_phrase`."""
        return is_phrase(request, self._settings)

    def speak(self, request: SynthesisRequest, stream: AudioStream, *, is_preload: bool = False) -> None:
        """Fill the stream: from the cache, from a synthesis that runs already, or from a new one.

        Returns at once; errors of the request, Overloaded among them, come by the stream. Raises Overloaded only when
        too many requests wait to be looked up, EngineFailure after `close`.
        """
        with self._lock:
            if self._num_lookups >= MAX_LOOKUPS:
                raise Overloaded("Too many short texts wait to be looked up. Try again shortly.")
            self._num_lookups += 1
        try:
            self._pool.submit(self._look_up, request, stream, is_preload)
        except RuntimeError:
            raise EngineFailure("The engine has been closed.") from None

    def preload(self, templates: Sequence[str], voice: str | None) -> None:
        """Speak phrases one after another on a thread of their own, behind all listeners; returns at once."""
        if self._cache.limit_bytes:
            self._preloading = threading.Thread(
                target=self._preload, args=(templates, voice), name="preload", daemon=True
            )
            self._preloading.start()

    def close(self) -> None:
        """Look up nothing any more. What is being spoken must have been cancelled."""
        self._is_closed = True
        self._pool.shutdown(wait=True)
        if self._preloading is not None:
            self._preloading.join()

    def _look_up(self, request: SynthesisRequest, stream: AudioStream, is_preload: bool) -> None:
        with self._lock:
            self._num_lookups -= 1
        if stream.is_finished:
            return
        try:
            prepared, key = self._prepare(request)
            while not self._answer(key, request, prepared, stream, takes_place=not is_preload):
                pass  # a synthesis ended between two looks; what it left is there now
            if not is_preload:
                self._count(stream)
        except LightTTSError as error:
            stream.fail(error)
        except Exception:
            logger.exception("request %s could not be prepared", stream.request_id)
            stream.fail(EngineFailure("The request could not be prepared."))

    def _answer(
        self,
        key: bytes,
        request: SynthesisRequest,
        prepared: PreparedRequest,
        stream: AudioStream,
        *,
        takes_place: bool,
    ) -> bool:
        """One attempt; False when a synthesis was found too late to join it."""
        flight = (key, request.stream)
        with self._lock:
            samples = self._cache.get(key)
            shared = None if samples is not None else self._in_flight.get(flight)
        stream.stats.is_phrase_cached = samples is not None
        if samples is not None:
            stream.put(AudioChunk(samples))
            stream.end(FinishReason.STOP)
            return True
        if shared is not None:
            return shared.join(stream)
        # Its first listener's patience is not the others'.
        shared = self._open_stream(replace(request, timeout_s=None))
        shared.on_over = partial(self._over, key, flight)
        with self._lock:
            self._in_flight[flight] = shared
        shared.join(stream)
        try:
            self._begin(shared, request, prepared, takes_place)
        except LightTTSError as error:
            shared.fail(error)
        return True

    def _count(self, stream: AudioStream) -> None:
        if stream.stats.is_phrase_cached:
            self._num_hits += 1
        else:
            self._num_misses += 1

    def _over(self, key: bytes, flight: tuple[bytes, bool], samples: np.ndarray | None) -> None:
        """A synthesis ended; from here on its phrase is found in the cache, or not at all."""
        with self._lock:
            self._in_flight.pop(flight, None)
            if samples is None:
                return
            try:
                self._cache.put(key, samples)
            except EngineFailure as error:
                logger.error("a phrase was not kept: %s", error)

    def _preload(self, templates: Sequence[str], voice: str | None) -> None:
        num_ready = 0
        for text in templates:
            request = SynthesisRequest(text, voice=voice, stream=False, phrase_cache=True, request_id=f"preload {text}")
            if not self.takes(request):
                logger.warning("short_templates: %r is too long to be kept", text)
                continue
            try:
                num_ready += self._fetch(request)
            except UnknownVoice as error:
                logger.info("no short texts are prepared: %s", error)
                return
            except LightTTSError as error:
                if self._is_closed:
                    return
                logger.warning("short_templates: %r was not spoken: %s", text, error)
        logger.info("%d of %d short texts are ready in the cache", num_ready, len(templates))

    def _fetch(self, request: SynthesisRequest) -> bool:
        """Have a phrase spoken and wait for it; True when there was something to hear."""
        with AudioStream(request.request_id, timeout_s=PRELOAD_TIMEOUT_S, max_pending_chunks=2) as stream:
            self.speak(request, stream, is_preload=True)
            return sum(chunk.samples.size for chunk in stream) > 0


def read_templates(path: Path | None) -> tuple[str, ...]:
    """The phrases of a UTF-8 file, one a line, `#` begins a comment; without a file the built-in examples.

    Raises ConfigError for a file that cannot be read.
    """
    if path is None:
        return EXAMPLE_TEMPLATES
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(f"short_templates {path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"short_templates {path} is not valid UTF-8 (byte {error.start}).") from None
    return tuple(text for line in lines if (text := line.partition("#")[0].strip()))
