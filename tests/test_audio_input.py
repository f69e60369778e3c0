"""Recordings from outside: every container in, hostile files refused with one sentence."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.audio_input import AudioLimits, decode
from light_tts.errors import BadAudio

GOLDEN = Path(__file__).parent / "golden" / "frontend"
RATE_HZ = 24000


def tone(seconds: float = 1.0, rate_hz: int = RATE_HZ, channels: int = 1) -> np.ndarray:
    wave = 0.3 * np.sin(np.arange(round(seconds * rate_hz)) * 2 * np.pi * 220 / rate_hz)
    return np.repeat(wave[None], channels, 0).astype(np.float32)


def encode(container: str, codec: str, samples: np.ndarray, rate_hz: int = RATE_HZ) -> bytes:
    file = io.BytesIO()
    layout = "mono" if samples.shape[0] == 1 else "stereo"
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate_hz, layout=layout)
        resampler = av.AudioResampler(stream.format.name, layout, stream.rate)
        for start in range(0, samples.shape[1], 960):
            block = np.ascontiguousarray(samples[:, start : start + 960])
            frame = av.AudioFrame.from_ndarray(block, "fltp", layout)
            frame.sample_rate = rate_hz
            for converted in resampler.resample(frame):
                output.mux(stream.encode(converted))
        for converted in resampler.resample(None):
            output.mux(stream.encode(converted))
        output.mux(stream.encode(None))
    return file.getvalue()


def wav(samples: np.ndarray, subtype: str = "PCM_16", rate_hz: int = RATE_HZ) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples.T, rate_hz, format="WAV", subtype=subtype)
    return file.getvalue()


def video() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(10):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        output.mux(stream.encode(None))
    return file.getvalue()


CODECS = [
    ("wav", "pcm_s16le"),
    ("wav", "pcm_s24le"),
    ("wav", "pcm_f32le"),
    ("wav", "pcm_u8"),
    ("mp3", "libmp3lame"),
    ("flac", "flac"),
    ("ogg", "libopus"),
    ("ipod", "aac"),
    ("mp4", "aac"),
    ("webm", "libopus"),
    ("adts", "aac"),
]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("container", "codec"), CODECS)
def test_common_containers_are_decoded(container: str, codec: str, channels: int):
    samples, rate_hz = decode(encode(container, codec, tone(channels=channels)))
    assert samples.dtype == np.float32
    assert samples.shape[0] == channels
    assert samples.shape[1] / rate_hz == pytest.approx(1.0, abs=0.15)
    assert 0.28 < np.abs(samples[:, rate_hz // 4 : rate_hz // 2]).max() < 0.32


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_uncompressed_samples_are_those_another_decoder_reads(subtype: str):
    data = wav(tone(channels=2), subtype)
    samples, rate_hz = decode(data)
    expected, expected_hz = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate_hz == expected_hz
    np.testing.assert_array_equal(samples, expected.T)


def test_full_scale_of_16_bit_is_exact():
    values = np.array([[-32768, -1, 0, 1, 32767]], np.int16)
    samples, _ = decode(wav(values))
    np.testing.assert_array_equal(samples[0], values[0] / 32768)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 5000,
        b"RIFF",
        b"RIFF\xff\xff\xff\xffWAVEfmt ",
        b"<html><body>404 Not Found</body></html>" * 10,
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1/x.ts\n",
        np.random.default_rng(0).bytes(5000),
        video(),
        wav(np.zeros((1, 0))),
        wav(np.full((1, 24000), np.nan, np.float32), "FLOAT"),
        wav(np.zeros((12, 24000))),
        wav(tone(0.1, 400_000), rate_hz=400_000),
    ],
    ids=["empty", "zeros", "riff", "header", "html", "concat", "hls", "junk", "video", "silent", "nan", "12ch", "400k"],
)
def test_what_is_no_recording_is_refused_with_a_sentence(data: bytes):
    with pytest.raises(BadAudio) as caught:
        decode(data)
    assert str(caught.value).endswith(".")
    assert caught.value.field == "audio"


@pytest.mark.parametrize(("container", "codec"), [c for c in CODECS if c[0] in ("wav", "flac", "ipod", "mp4")])
def test_half_an_upload_is_refused(container: str, codec: str):
    data = encode(container, codec, tone(2.0))
    with pytest.raises(BadAudio):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("size", [0, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_headers_that_were_never_filled_in_are_forgiven(size: int):
    data = wav(tone())
    position = data.index(b"data") + 4
    samples, rate_hz = decode(data[:position] + struct.pack("<I", size) + data[position + 4 :])
    assert samples.shape[1] == rate_hz


def test_decoding_stops_at_the_limit_however_small_the_file():
    """A quarter of an hour of silence is a small flac file."""
    data = encode("flac", "flac", np.zeros((1, 16000 * 900), np.float32), 16000)
    assert len(data) < 200_000
    with pytest.raises(BadAudio, match="longer than 30 s"):
        decode(data)


def test_files_over_the_size_are_refused():
    with pytest.raises(BadAudio, match="MB"):
        decode(wav(tone()), AudioLimits(max_bytes=1000))


def test_loud_floats_are_clipped():
    samples, _ = decode(wav(10 * tone(), "FLOAT"))
    assert np.abs(samples).max() == 1.0


SEEDS = [encode(container, codec, tone(0.3)) for container, codec in CODECS if container != "adts"]


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12),
    st.floats(0, 1),
)
def test_damaged_files_decode_or_are_refused(seed: bytes, edits: list[tuple[float, int]], kept: float):
    data = bytearray(seed)
    for position, value in edits:
        # Headers are where damage hurts, so most edits go there.
        data[int(position**3 * len(data))] = value
    data = data[: int(len(data) * max(kept, 0.05))] if kept < 0.5 else data
    try:
        samples, rate_hz = decode(bytes(data))
    except BadAudio:
        return
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1.0
    assert samples.shape[1] <= 30.5 * rate_hz + 1
