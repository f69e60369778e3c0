"""Finished speech of short texts that are said again and again, least recently used first out (spec: server, 6.2).

Holds samples and counts; who may be answered from it and what happens on a miss is in `phrase_book.py`.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from light_tts.audio_output import from_int16, to_int16
from light_tts.types import PreparedRequest, SynthesisRequest


@dataclass(frozen=True)
class PhraseCacheStats:
    """What is kept now, and how often a listener's text was found there or was not."""

    entries: int = 0
    bytes: int = 0
    hits: int = 0
    misses: int = 0


class PhraseCache:
    """Speech by key, as 16-bit PCM at 24 kHz. Safe from many threads.

    limit_bytes:  of all samples together; what does not fit pushes out what was not asked for the longest. Speech
                  larger than the whole budget is not kept; 0 keeps nothing.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._pcm: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._used_bytes = 0

    def __len__(self) -> int:
        return len(self._pcm)

    @property
    def used_bytes(self) -> int:
        """Bytes of all samples."""
        return self._used_bytes

    def get(self, key: bytes) -> np.ndarray | None:
        """[N] float32 at 24 kHz, which is the same 16-bit PCM again; None when there are none."""
        with self._lock:
            pcm = self._pcm.get(key)
            if pcm is not None:
                self._pcm.move_to_end(key)
        return None if pcm is None else from_int16(pcm)

    def put(self, key: bytes, samples: np.ndarray) -> None:
        """Keep [N] float32 samples at 24 kHz. Raises EngineFailure when one of them is no number."""
        pcm = to_int16(samples)
        with self._lock:
            self._forget(key)
            if not 0 < pcm.nbytes <= self.limit_bytes:
                return
            self._pcm[key] = pcm
            self._used_bytes += pcm.nbytes
            while self._used_bytes > self.limit_bytes:
                self._forget(next(iter(self._pcm)))

    def _forget(self, key: bytes) -> None:
        pcm = self._pcm.pop(key, None)
        if pcm is not None:
            self._used_bytes -= pcm.nbytes


def phrase_key(prepared: PreparedRequest, request: SynthesisRequest, *, flow_steps: int, engine: str) -> bytes:
    """Identifies all that decides how a request sounds, but its seed and whether it is streamed.

    prepared:    text after normalisation and tokenisation, transcript and speech of the voice, its content hash.
    flow_steps:  in force for this request.
    engine:      model, style, precision: what the requests of one engine have in common.
    """
    voice = (prepared.flow_prompt.key, prepared.mode)
    content = (engine, voice, prepared.segments, request.speed, flow_steps, request.sampling)
    return hashlib.sha256(repr(content).encode()).digest()
