"""Bytes to samples, however the network cut them."""

import io
import wave
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_tts.bench.pcm import PcmReader
from light_tts.bench.target import RequestFailed

SAMPLES = np.array([0, 1, -1, 16384, -32768, 32767], np.int16)
FLOATS = SAMPLES.astype(np.float32) / 32768.0


def wav(pcm: bytes, rate_hz: int = 16_000, channels: int = 1, width: int = 2) -> bytes:
    sink = io.BytesIO()
    with wave.open(sink, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate_hz)
        file.writeframes(pcm)
    return sink.getvalue()


def read(reader: PcmReader, body: bytes, cuts: list[int]) -> np.ndarray:
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    return np.concatenate([reader.feed(body[start:end]) for start, end in pairwise(edges)])


@given(st.lists(st.integers(0, 80), max_size=12), st.booleans())
def test_cuts_carry_no_meaning(cuts: list[int], has_header: bool) -> None:
    body = wav(SAMPLES.tobytes()) if has_header else SAMPLES.tobytes()
    reader = PcmReader()
    np.testing.assert_array_equal(read(reader, body, cuts), FLOATS)
    assert reader.sample_rate_hz == (16_000 if has_header else 24_000)


@pytest.mark.parametrize("size", [b"\xff\xff\xff\xff", b"\0\0\0\0"])
def test_a_streamed_wav_has_no_known_length(size: bytes) -> None:
    body = bytearray(wav(SAMPLES.tobytes()))
    body[40:44] = size
    np.testing.assert_array_equal(PcmReader().feed(bytes(body)), FLOATS)


def test_what_follows_the_data_of_a_wav_is_not_audio() -> None:
    body = wav(SAMPLES.tobytes()) + b"LIST\x04\0\0\0abcd"
    np.testing.assert_array_equal(read(PcmReader(), body, list(range(60))), FLOATS)


def test_chunks_before_the_data_of_a_wav_are_skipped() -> None:
    body = wav(SAMPLES.tobytes())
    body = body[:36] + b"LIST\x03\0\0\0abc\0" + body[36:]  # odd sizes are padded
    np.testing.assert_array_equal(read(PcmReader(), body, list(range(60))), FLOATS)


@pytest.mark.parametrize(("channels", "width"), [(2, 2), (1, 3)])
def test_other_wavs_are_refused(channels: int, width: int) -> None:
    with pytest.raises(RequestFailed, match="not 16-bit mono"):
        PcmReader().feed(wav(bytes(12), channels=channels, width=width))
