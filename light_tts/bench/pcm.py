"""Bytes of an HTTP body to samples: 16-bit PCM cut anywhere, with or without a WAV header. Knows nothing of HTTP."""

from __future__ import annotations

import numpy as np

from light_tts.bench.target import RequestFailed
from light_tts.types import SAMPLE_RATE_HZ

_UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # how streamed WAV files say that their length is not known yet
_NO_SAMPLES = np.zeros(0, np.float32)


class PcmReader:
    """Feed it the body as it arrives, get the samples that are complete.

    sample_rate_hz: of the samples given so far; a WAV header overrides the rate given here.
    """

    def __init__(self, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
        self.sample_rate_hz = sample_rate_hz
        self._pending = bytearray()
        self._is_in_audio = False
        self._remaining_bytes: int | None = None  # of the WAV data chunk; what follows it is no audio

    def feed(self, data: bytes) -> np.ndarray:
        """The next [N] float32 samples within [-1, 1]. Raises RequestFailed for a WAV that is not 16-bit mono."""
        self._pending += data
        if not self._is_in_audio:
            self._is_in_audio = self._skip_header()
            if not self._is_in_audio:
                return _NO_SAMPLES
        num_bytes = len(self._pending) - len(self._pending) % 2
        if self._remaining_bytes is not None:
            num_bytes = min(num_bytes, self._remaining_bytes)
            self._remaining_bytes -= num_bytes
        samples = np.frombuffer(bytes(self._pending[:num_bytes]), "<i2").astype(np.float32) / 32768.0
        del self._pending[:num_bytes]
        return samples

    def _skip_header(self) -> bool:
        """True when the next pending byte is audio; False while that cannot be said yet."""
        if len(self._pending) < 4:
            return not b"RIFF".startswith(self._pending)
        if self._pending[:4] != b"RIFF":
            return True
        position = 12
        while len(self._pending) >= position + 8:
            name = bytes(self._pending[position : position + 4])
            size = int.from_bytes(self._pending[position + 4 : position + 8], "little")
            position += 8
            if name == b"data":
                self._remaining_bytes = None if size in _UNKNOWN_SIZES else size
                del self._pending[:position]
                return True
            if name == b"fmt " and len(self._pending) >= position + 16:
                self._read_format(bytes(self._pending[position : position + 16]))
            position += size + size % 2
        return False

    def _read_format(self, fmt: bytes) -> None:
        channels, bits = int.from_bytes(fmt[2:4], "little"), int.from_bytes(fmt[14:16], "little")
        if (channels, bits) != (1, 16):
            raise RequestFailed("bad audio", f"a WAV of {channels} channels and {bits} bits came, not 16-bit mono")
        self.sample_rate_hz = int.from_bytes(fmt[4:8], "little")
