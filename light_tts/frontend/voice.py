"""A recording to a `Voice`: decode, check, extract once, remember (spec: frontend, section 3)."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import torch

from light_tts.audio_input import AudioLimits, decode
from light_tts.errors import BadAudio
from light_tts.frontend.features import REFERENCE_RATE_HZ
from light_tts.frontend.reference_features import ReferenceFeatures
from light_tts.frontend.resample import resample
from light_tts.settings import FrontendSettings
from light_tts.types import FRAMES_PER_TOKEN, SAMPLE_RATE_HZ, Voice


@dataclass(frozen=True)
class VoiceCacheStats:
    """Recordings remembered now, and how often one was asked for that was remembered or was not."""

    entries: int = 0
    hits: int = 0
    misses: int = 0


class VoiceExtractor:
    """Makes voices of recordings. Safe from many threads; each recording is extracted once while it is remembered.

    features:  the models that read a wave.
    settings:  lengths and sizes accepted, recordings remembered.
    """

    def __init__(self, features: ReferenceFeatures, settings: FrontendSettings) -> None:
        self._features = features
        self._min_s = settings.min_prompt_s
        self._limits = AudioLimits(max_bytes=settings.max_upload_mb * 1024 * 1024, max_s=settings.max_prompt_s)
        self._capacity = settings.voice_cache_capacity
        self._num_reserved = int(settings.voice_cache_reserved_ratio * self._capacity)
        self._turns = threading.BoundedSemaphore(settings.max_encodings)
        self._lock = threading.Lock()
        self._users: Counter[str] = Counter()
        self._voices: OrderedDict[str, Future[Voice]] = OrderedDict()
        self._num_hits = self._num_misses = 0

    def hold(self, voice_id: str) -> Callable[[], None]:
        """Keep a remembered recording while somebody speaks with it; the value ends that, and may be called once."""
        with self._lock:
            self._users[voice_id] += 1
        return partial(self._release, voice_id)

    def cache_stats(self) -> VoiceCacheStats:
        """How the memory of recordings does."""
        return VoiceCacheStats(len(self._voices), self._num_hits, self._num_misses)

    def extract(self, data: bytes) -> Voice:
        """The voice of a recording, id "sha256:<hex>" of its bytes, without a transcript.

        Raises BadAudio for a recording that cannot be used; such a failure is not remembered.
        """
        key = f"sha256:{hashlib.sha256(data).hexdigest()}"
        with self._lock:
            future = self._voices.get(key)
            is_first = future is None
            if future is None:
                future = Future()
                self._voices[key] = future
                self._num_misses += 1
            else:
                self._num_hits += 1
            self._voices.move_to_end(key)
        if not is_first:
            return future.result()
        try:
            with self._turns:
                voice = self._extract(key, data)
        except BaseException as error:
            with self._lock:
                self._voices.pop(key, None)
            future.set_exception(error)
            raise
        future.set_result(voice)
        with self._lock:
            self._evict(newest=key)
        return voice

    def speech_tokens(self, data: bytes) -> torch.Tensor:
        """[S] int64 speech codes of a recording whose words are to be spoken by another voice. Raises BadAudio."""
        with self._turns:
            wave_16k, _ = self._waves(data)
            return self._features.speech_tokens(wave_16k)

    def _extract(self, key: str, data: bytes) -> Voice:
        # Voices outlive the request that made them; tensors of inference mode could not be used everywhere later.
        with torch.inference_mode(mode=False), torch.no_grad():
            wave_16k, wave_24k = self._waves(data)
            tokens, mel = align(self._features.speech_tokens(wave_16k), self._features.mel(wave_24k))
            return Voice(key, self._features.speaker(wave_16k), tokens, mel)

    def _waves(self, data: bytes) -> tuple[torch.Tensor, torch.Tensor]:
        mono, rate_hz = decode_reference(data, self._limits)
        wave_16k = resample(mono, rate_hz, REFERENCE_RATE_HZ)
        duration_s = wave_16k.shape[0] / REFERENCE_RATE_HZ
        if duration_s > self._limits.max_s:
            raise BadAudio(
                f"The reference audio is {duration_s:.1f} s long; at most {self._limits.max_s:g} s are accepted, and "
                "3 to 10 s work best.",
                "audio",
            )
        if duration_s < self._min_s:
            raise BadAudio(
                f"The reference audio is {duration_s:.2f} s long; at least {self._min_s:g} s are needed, and 3 to 10 s "
                "work best.",
                "audio",
            )
        return wave_16k, resample(mono, rate_hz, SAMPLE_RATE_HZ)

    def _release(self, voice_id: str) -> None:
        with self._lock:
            self._users[voice_id] -= 1
            if not self._users[voice_id]:
                del self._users[voice_id]
            self._evict()

    def _evict(self, newest: str | None = None) -> None:
        """When there are too many, drop the least recently used until the reserved share is left (spec: server, 6.4).

        Those in use stay, and so does the one just made: somebody is about to use it.
        """
        done = [key for key, future in self._voices.items() if future.done()]
        if len(done) <= self._capacity:
            return
        unused = [key for key in done if key not in self._users and (key != newest or not self._capacity)]
        for key in unused[: len(done) - self._num_reserved]:
            del self._voices[key]


def decode_reference(data: bytes, limits: AudioLimits) -> tuple[torch.Tensor, int]:
    """A recording as one channel, [N] float32, and its rate in Hz. Raises BadAudio, also for rates below 16 kHz."""
    samples, rate_hz = decode(data, limits)
    if rate_hz < REFERENCE_RATE_HZ:
        raise BadAudio(
            f"The reference audio has a sample rate of {rate_hz} Hz; at least {REFERENCE_RATE_HZ} Hz are needed.",
            "audio",
        )
    return torch.from_numpy(samples).mean(dim=0), rate_hz


def align(tokens: torch.Tensor, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut codes and mel to the whole tokens both have: [k] and [2k, 80] (spec: frontend, section 3.6)."""
    count = min(mel.shape[0] // FRAMES_PER_TOKEN, tokens.shape[0])
    return tokens[:count].clone(), mel[: FRAMES_PER_TOKEN * count].clone()
