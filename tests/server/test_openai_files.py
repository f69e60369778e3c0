"""The files that `/v1/audio/speech` sends, streamed and complete, read by two independent decoders and byte by byte."""

import io
import struct
import wave

import av
import httpx2
import numpy as np
import pytest
import soundfile

SPEECH = "/v1/audio/speech"
SECONDS = 1.0
PADDING_S = 0.13  # what the codecs add
EXTENSIONS = ["mp3", "opus", "aac", "flac", "wav"]


@pytest.fixture
def fetch(base_url):
    def fetch(name, *, stream, **fields):
        body = {"input": "hello", "response_format": name, "stream": stream, **fields}
        answer = httpx2.post(base_url + SPEECH, json=body, headers={"accept-encoding": "gzip, deflate"})
        assert answer.status_code == 200
        assert "content-encoding" not in answer.headers
        assert ("content-length" in answer.headers) == (not stream)
        return answer.content

    return fetch


def by_ffmpeg(data):
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(audio=0))
    return sum(frame.samples / frame.sample_rate for frame in frames), frames[0].sample_rate


def by_libsndfile(data):
    """Block by block, as it does not know the length of a streamed FLAC and says so behind the last one."""
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        num_samples = 0
        is_length_known = file.frames < 2**62
        try:
            while (block := file.read(960)).size:
                num_samples += block.size
        except soundfile.LibsndfileError:
            assert not is_length_known
        return num_samples / file.samplerate, file.samplerate


def by_adts_frames(data):
    """Walks the frames of an AAC file by their headers; libsndfile knows no AAC."""
    position = num_frames = 0
    while position < len(data):
        head = data[position : position + 7]
        assert head[0] == 0xFF
        assert head[1] & 0xF6 == 0xF0  # sync word, layer 0
        rate_index, channels = head[2] >> 2 & 15, (head[2] & 1) << 2 | head[3] >> 6
        assert (rate_index, channels) == (6, 1)  # 24 kHz, mono
        position += (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        num_frames += 1
    assert position == len(data)
    return num_frames * 1024 / 24_000, 24_000


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", EXTENSIONS)
def test_two_decoders_agree_on_every_file(fetch, name, stream):
    data = fetch(name, stream=stream)
    other = by_adts_frames if name == "aac" else by_libsndfile
    for seconds, rate_hz in (by_ffmpeg(data), other(data)):
        assert seconds == pytest.approx(SECONDS, abs=PADDING_S)
        assert rate_hz == 24_000 or (name == "opus" and rate_hz == 48_000)


@pytest.mark.parametrize("stream", [True, False])
def test_wav_headers(fetch, stream):
    data = fetch("wav", stream=stream)
    riff, _, data_size = struct.unpack_from("<4xI4s", data) + struct.unpack_from("<I", data, 40)
    expected = (0xFFFFFFFF, 0xFFFFFFFF) if stream else (len(data) - 8, len(data) - 44)
    assert (riff, data_size) == expected
    assert data[:4] + data[8:16] + data[36:40] == b"RIFFWAVEfmt data"
    assert struct.unpack_from("<HHIIHH", data, 20) == (1, 1, 24_000, 48_000, 2, 16)
    with wave.open(io.BytesIO(data)) as file:
        assert len(file.readframes(10**6)) == 48_000


@pytest.mark.parametrize("stream", [True, False])
def test_pcm_is_24_khz_whatever_was_said_about_speed(fetch, stream):
    assert len(fetch("pcm", stream=stream, speed=2.0)) == 48_000


@pytest.mark.parametrize(("stream", "count"), [(True, 0), (False, 24_000)])
def test_flac_states_its_length_only_when_it_is_known(fetch, stream, count):
    data = fetch("flac", stream=stream)
    assert data[:4] == b"fLaC"
    assert data[4] & 0x7F == 0  # STREAMINFO comes first
    assert int.from_bytes(data[21:26], "big") & 0xF_FFFF_FFFF == count
    if not stream:
        assert soundfile.read(io.BytesIO(data))[0].shape == (24_000,)


def test_streamed_mp3_is_frames_and_nothing_else(fetch):
    data = fetch("mp3", stream=True)
    assert data[:2] == b"\xff\xf3"  # what a player tells the format by: MPEG-2 layer III
    assert not {b"Xing", b"Info", b"ID3", b"TAG"} & {data[i : i + n] for n in (3, 4) for i in range(len(data))}
    sizes = set()
    position = 0
    while position < len(data):
        bit_rate = (0, 8, 16, 24, 32, 40, 48, 56, 64)[data[position + 2] >> 4]
        sizes.add(bit_rate)
        position += 72 * bit_rate * 1000 // 24_000 + (data[position + 2] >> 1 & 1)
    assert (position, sizes) == (len(data), {64})  # constant bit rate


def test_streamed_opus_has_pages_of_20_ms(fetch):
    data = fetch("opus", stream=True)
    granules, position = [], 0
    while position < len(data):
        assert data[position : position + 4] == b"OggS"
        granules.append(int.from_bytes(data[position + 6 : position + 14], "little"))
        num_segments = data[position + 26]
        position += 27 + num_segments + sum(data[position + 27 : position + 27 + num_segments])
    assert position == len(data)
    steps = np.diff(granules[2:-1])  # behind the two header pages; the last page may be short
    assert set(steps) == {960}
