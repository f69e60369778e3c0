"""Samples to bytes: pcm, wav, flac, mp3, opus and aac, piece by piece for a stream or whole with exact headers.

Knows nothing of HTTP and imports no torch. Compressed formats are made by FFmpeg through PyAV, which is loaded when
it is first needed.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from light_tts.errors import EngineFailure, Unsupported
from light_tts.types import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    import av

UNKNOWN_SIZE = 0xFFFFFFFF  # a streamed WAV: with 0 in its place libsndfile, SoX and Python's wave find no audio


@dataclass(frozen=True)
class AudioFormat:
    """One output format: how it is called on the wire and how FFmpeg makes it.

    container:        FFmpeg's muxer; None for pcm and wav, which are written here.
    stream_options:   muxer options that hand every packet on at once and write nothing that needs seeking back.
    rates_hz:         sample rates the codec takes; None for any.
    """

    name: str
    media_type: str
    extension: str
    container: str | None = None
    codec: str = ""
    bit_rate: int = 0
    stream_options: dict[str, str] = field(default_factory=dict)
    rates_hz: tuple[int, ...] | None = None


_MPEG_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)

FORMATS: dict[str, AudioFormat] = {
    audio_format.name: audio_format
    for audio_format in (
        AudioFormat("pcm", "audio/pcm", "pcm"),
        AudioFormat("wav", "audio/wav", "wav"),
        AudioFormat("flac", "audio/flac", "flac", "flac", "flac", 0, {"flush_packets": "1"}),
        AudioFormat(
            "mp3",
            "audio/mpeg",
            "mp3",
            "mp3",
            "libmp3lame",
            64_000,
            # A Xing frame written before the length is known makes players show a wrong duration.
            {"write_xing": "0", "id3v2_version": "0", "flush_packets": "1"},
            _MPEG_RATES_HZ,
        ),
        AudioFormat(
            "opus",
            "audio/ogg; codecs=opus",
            "opus",
            "ogg",
            "libopus",
            32_000,
            # Ogg pages last 1 s unless told otherwise, and a player starts after its first page.
            {"page_duration": "20000", "flush_packets": "1"},
            (8000, 12000, 16000, 24000, 48000),
        ),
        AudioFormat("aac", "audio/aac", "aac", "adts", "aac", 64_000, {"flush_packets": "1"}, _MPEG_RATES_HZ),
    )
}


class StreamEncoder(Protocol):
    """Takes 24 kHz float samples, gives the next bytes of the file. One stream owns it; not safe from two threads.

    is_cheap:   True when `encode` takes microseconds and may run on an event loop.
    """

    audio_format: AudioFormat
    sample_rate_hz: int
    is_cheap: bool

    def encode(self, samples: np.ndarray) -> bytes:
        """[N] float32 at 24 kHz to the next bytes, possibly none. Raises EngineFailure on NaN or infinity."""

    def finish(self) -> bytes:
        """The last bytes; nothing may be encoded afterwards."""


def to_int16(samples: np.ndarray) -> np.ndarray:
    """[N] float to [N] int16 (little-endian), clipped to [-1, 1] before scaling so that nothing wraps around.

    Raises EngineFailure when a sample is NaN or infinite.
    """
    _check_finite(samples)
    scaled: np.ndarray = np.rint(np.clip(samples, -1.0, 1.0) * 32767.0)
    return scaled.astype("<i2")


def from_int16(pcm: np.ndarray) -> np.ndarray:
    """[N] int16 to [N] float32; `to_int16` makes the same integers of it."""
    return pcm.astype(np.float32) / np.float32(32767.0)


def check_sample_rate(name: str, sample_rate_hz: int) -> None:
    """Raises Unsupported when the format cannot hold that rate. Opus takes any: its clock is always 48 kHz."""
    rates_hz = FORMATS[name].rates_hz
    if name != "opus" and rates_hz is not None and sample_rate_hz not in rates_hz:
        raise Unsupported(
            f"sample_rate {sample_rate_hz} is not possible in {name}; possible: {', '.join(map(str, rates_hz))}.",
            "sample_rate",
        )


def open_encoder(name: str, sample_rate_hz: int = SAMPLE_RATE_HZ) -> StreamEncoder:
    """An encoder for a stream of unknown length. Raises Unsupported for a rate the format cannot hold."""
    check_sample_rate(name, sample_rate_hz)
    if FORMATS[name].container is None:
        return _PlainEncoder(FORMATS[name], sample_rate_hz)
    return _ContainerEncoder(FORMATS[name], sample_rate_hz, _Pipe(), FORMATS[name].stream_options)


def encode_complete(samples: np.ndarray, name: str, sample_rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """[N] float32 at 24 kHz to a whole file whose headers state the true length.

    Raises Unsupported for a rate the format cannot hold, EngineFailure on NaN or infinity.
    """
    check_sample_rate(name, sample_rate_hz)
    if FORMATS[name].container is None:
        plain = _PlainEncoder(FORMATS["pcm"], sample_rate_hz)
        body = plain.encode(samples) + plain.finish()
        return body if name == "pcm" else wav_header(sample_rate_hz, len(body)) + body
    # A seekable sink lets FFmpeg go back and write the length (FLAC STREAMINFO, MP3 Xing).
    sink = io.BytesIO()
    encoder = _ContainerEncoder(FORMATS[name], sample_rate_hz, sink, {})
    encoder.encode(samples)
    encoder.finish()
    return sink.getvalue()


def wav_header(sample_rate_hz: int, num_bytes: int | None) -> bytes:
    """The 44-byte header of 16-bit mono PCM; `num_bytes` None for a stream of unknown length."""
    data_size = UNKNOWN_SIZE if num_bytes is None else num_bytes
    riff_size = UNKNOWN_SIZE if num_bytes is None else num_bytes + 36
    riff = struct.pack("<4sI4s", b"RIFF", riff_size, b"WAVE")
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate_hz, sample_rate_hz * 2, 2, 16)
    return riff + fmt + struct.pack("<4sI", b"data", data_size)


def _check_finite(samples: np.ndarray) -> None:
    if not np.isfinite(samples).all():
        raise EngineFailure("The synthesis produced samples that are no numbers.")


def _frame(samples: np.ndarray, position: int) -> Any:
    """A PyAV frame of mono float samples at 24 kHz; `position` counts the samples before it."""
    import av

    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples, dtype=np.float32)[None, :], format="flt", layout="mono"
    )
    frame.sample_rate = SAMPLE_RATE_HZ
    frame.time_base = Fraction(1, SAMPLE_RATE_HZ)
    frame.pts = position
    return frame


class _Resampler:
    """24 kHz float samples to another rate, piece by piece."""

    def __init__(self, sample_rate_hz: int) -> None:
        import av

        self._resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate_hz)
        self._position = 0

    def resample(self, samples: np.ndarray) -> np.ndarray:
        frames = self._resampler.resample(_frame(samples, self._position))
        self._position += samples.size
        return _joined(frames)

    def finish(self) -> np.ndarray:
        return _joined(self._resampler.resample(None)) if self._position else np.zeros(0, np.float32)


def _joined(frames: list[Any]) -> np.ndarray:
    arrays = [frame.to_ndarray()[0] for frame in frames]
    return np.concatenate(arrays) if arrays else np.zeros(0, np.float32)


class _PlainEncoder:
    """pcm, and wav with a header of unknown length before the first samples."""

    is_cheap = True

    def __init__(self, audio_format: AudioFormat, sample_rate_hz: int) -> None:
        self.audio_format = audio_format
        self.sample_rate_hz = sample_rate_hz
        self._resampler = None if sample_rate_hz == SAMPLE_RATE_HZ else _Resampler(sample_rate_hz)
        self._header = wav_header(sample_rate_hz, None) if audio_format.name == "wav" else b""

    def encode(self, samples: np.ndarray) -> bytes:
        if not samples.size:
            return b""
        _check_finite(samples)
        if self._resampler is not None:
            samples = self._resampler.resample(np.clip(samples, -1.0, 1.0))
        return self._with_header(samples)

    def finish(self) -> bytes:
        tail = self._resampler.finish() if self._resampler is not None else np.zeros(0, np.float32)
        return self._with_header(tail)

    def _with_header(self, samples: np.ndarray) -> bytes:
        header, self._header = self._header, b""
        return header + to_int16(samples).tobytes()


class _Pipe:
    """A sink that cannot seek, as a socket is; keeps what was written until taken."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def take(self) -> bytes:
        taken, self._written = bytes(self._written), bytearray()
        return taken


class _ContainerEncoder:
    """flac, mp3, opus and aac through FFmpeg."""

    is_cheap = False

    def __init__(
        self, audio_format: AudioFormat, sample_rate_hz: int, sink: _Pipe | io.BytesIO, options: dict[str, str]
    ) -> None:
        import av

        self.audio_format = audio_format
        self.sample_rate_hz = _codec_rate_hz(audio_format, sample_rate_hz)
        self._sink = sink
        self._container = av.open(sink, mode="w", format=audio_format.container, options=options)
        stream = self._container.add_stream(audio_format.codec, rate=self.sample_rate_hz, layout="mono")
        self._stream = cast("av.AudioStream", stream)
        if audio_format.bit_rate:
            self._stream.bit_rate = audio_format.bit_rate
        else:
            self._stream.format = "s16"
        self._position = 0

    def encode(self, samples: np.ndarray) -> bytes:
        if not samples.size:
            return b""
        _check_finite(samples)
        frame = _frame(np.clip(samples, -1.0, 1.0), self._position)
        self._position += samples.size
        self._container.mux(self._stream.encode(frame))
        return self._taken()

    def finish(self) -> bytes:
        if self._position:
            self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._taken()

    def _taken(self) -> bytes:
        return self._sink.take() if isinstance(self._sink, _Pipe) else b""


def _codec_rate_hz(audio_format: AudioFormat, sample_rate_hz: int) -> int:
    """The lowest rate of the codec that loses nothing of the one asked for."""
    if audio_format.rates_hz is None:
        return sample_rate_hz
    return min((rate for rate in audio_format.rates_hz if rate >= sample_rate_hz), default=max(audio_format.rates_hz))
