"""Decode a recording somebody sent, in any common container, without trusting it (FFmpeg through PyAV).

Knows nothing of models: bytes in, samples out. Loads PyAV on first use.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from light_tts.errors import BadAudio, UndecodableAudio, Unsupported

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Demuxers that read one file and nothing else: no playlists, no scripts, no network.
_FORMATS = "wav,mp3,flac,ogg,matroska,webm,mov,mp4,m4a,aac,aiff,w64"
_EXACT_LENGTH_FORMATS = ("wav", "flac", "mov")  # headers that state the true length
_UNKNOWN_RIFF_SIZE = 0x7FFF_F000  # programs that write to a pipe leave sizes from here on (or zero) in the header
_MAX_CHANNELS = 8
_MAX_RATE_HZ = 192_000
_SLACK_S = 0.5  # codecs pad their ends; the caller checks the exact limit after resampling
_FULL_SCALE = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63}


@dataclass(frozen=True)
class AudioLimits:
    """What is accepted.

    max_bytes:   size of the file.
    max_s:       decoding stops with an error half a second past this, whatever the file claims.
    """

    max_bytes: int = 50 * 1024 * 1024
    max_s: float = 30.0


def decode(data: bytes, limits: AudioLimits | None = None) -> tuple[NDArray[np.float32], int]:
    """Decode the first audio track: (samples [channels, N] float32 in [-1, 1], rate in Hz).

    Integer samples are divided by their full scale (2^15 for 16 bit), nothing else is done to them.
    Raises BadAudio with one clear sentence for anything that cannot be used, Unsupported when PyAV is not installed.
    """
    limits = limits or AudioLimits()
    if not data:
        raise UndecodableAudio("The reference audio is empty; send a recording of 3 to 10 seconds.", "audio")
    if len(data) > limits.max_bytes:
        raise BadAudio(
            f"The reference audio has {len(data) / 1e6:.1f} MB; at most {limits.max_bytes / 1e6:.0f} MB are accepted.",
            "audio",
        )
    _check_riff_is_complete(data)
    av = _load_av()
    try:
        with av.open(io.BytesIO(data), mode="r", options=_open_options()) as container:
            return _decode_container(container, limits)
    except (av.FFmpegError, ValueError, OSError, EOFError) as error:
        raise UndecodableAudio(
            f"The reference audio cannot be decoded ({_reason(error)}); "
            "send a complete wav, mp3, flac, ogg, m4a, aac or webm file.",
            "audio",
        ) from error


def _check_riff_is_complete(data: bytes) -> None:
    """FFmpeg takes what is there of a wav file; half an upload must not become half a voice without a word."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return
    position = 12
    while position + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        position += 8
        if name == b"data":
            there = len(data) - position
            # A few bytes may be padding that a careless program counted; a lost half second is not.
            if 0 < size < _UNKNOWN_RIFF_SIZE and there < 0.95 * size:
                raise BadAudio(
                    f"The recording is cut short: its header says {size} bytes of sound, but only {there} are there; "
                    "send the complete file.",
                    "audio",
                )
            return
        position += size + size % 2


def _load_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise Unsupported("Reading recordings needs the package 'av'; install it with: pip install av.") from error
    return av


def _open_options() -> dict[str, str]:
    return {"format_whitelist": _FORMATS, "protocol_whitelist": ""}


def _decode_container(container: Any, limits: AudioLimits) -> tuple[NDArray[np.float32], int]:
    if not container.streams.audio:
        raise UndecodableAudio("The file has no audio track; send a recording.", "audio")
    stream = container.streams.audio[0]
    claimed_s = _claimed_s(container, stream)
    blocks: list[NDArray[np.float32]] = []
    num_samples, rate_hz = 0, 0
    for block, block_rate_hz in _blocks(container, stream):
        if not blocks:
            rate_hz = block_rate_hz
            _check_layout(block.shape[0], rate_hz)
        elif block_rate_hz != rate_hz or block.shape[0] != blocks[0].shape[0]:
            raise BadAudio("The recording changes its sample rate or channels midway; send it in one format.", "audio")
        blocks.append(block)
        num_samples += block.shape[1]
        if num_samples > (limits.max_s + _SLACK_S) * rate_hz:
            raise BadAudio(
                f"The reference audio is longer than {limits.max_s:g} s; cut it to the best 3 to 10 seconds.", "audio"
            )
    if not num_samples:
        raise UndecodableAudio("The file has an audio track without sound in it; send a complete recording.", "audio")
    decoded_s = num_samples / rate_hz
    if claimed_s is not None and claimed_s > 1.05 * decoded_s + 0.25:
        raise BadAudio(
            f"The recording is cut short: its header says {claimed_s:.1f} s, but only {decoded_s:.1f} s are there; "
            "send the complete file.",
            "audio",
        )
    samples = np.concatenate(blocks, axis=1)
    if not np.isfinite(samples).all():
        raise BadAudio("The recording contains samples that are not numbers; export it again.", "audio")
    return np.clip(samples, -1.0, 1.0), rate_hz


def _blocks(container: Any, stream: Any) -> Iterator[tuple[NDArray[np.float32], int]]:
    for frame in container.decode(stream):
        if frame.samples:
            yield _to_float(frame), int(frame.sample_rate)


def _to_float(frame: Any) -> NDArray[np.float32]:
    """[channels, N] float32 of one decoded frame."""
    kind = frame.format.name.removesuffix("p")
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if kind in _FULL_SCALE:
        offset = 128 if kind == "u8" else 0
        values = (values.astype(np.float64) - offset) / _FULL_SCALE[kind]
    return np.ascontiguousarray(values, dtype=np.float32)


def _check_layout(num_channels: int, rate_hz: int) -> None:
    if not 1 <= num_channels <= _MAX_CHANNELS:
        raise BadAudio(
            f"The recording has {num_channels} channels; at most {_MAX_CHANNELS} are accepted. Send mono or stereo.",
            "audio",
        )
    if not 0 < rate_hz <= _MAX_RATE_HZ:
        raise BadAudio(
            f"The recording has a sample rate of {rate_hz} Hz; at most {_MAX_RATE_HZ} Hz are accepted.", "audio"
        )


def _claimed_s(container: Any, stream: Any) -> float | None:
    """Length in the header, where the format states it exactly; None when it does not, or was never filled in."""
    if not container.format.name.startswith(_EXACT_LENGTH_FORMATS) or stream.duration is None:
        return None
    return float(stream.duration * stream.time_base)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.split("\n")[0][:100].lower()
