"""Every format, streamed and complete, read back by two independent decoders."""

import io
import wave

import av
import numpy as np
import pytest
import soundfile

from light_tts.audio_output import FORMATS, encode_complete, open_encoder, to_int16, wav_header
from light_tts.errors import EngineFailure, Unsupported

DURATION_S = 3.0
SAMPLES = (0.5 * np.sin(2 * np.pi * 440 * np.arange(72_000) / 24_000)).astype(np.float32)
# what the codec adds at both ends, in samples of its rate
PADDING = {"pcm": 0, "wav": 0, "flac": 0, "mp3": 1728, "opus": 1440, "aac": 3072}


def streamed(name, samples=SAMPLES, rate_hz=24_000, hop=4_800):
    encoder = open_encoder(name, rate_hz)
    pieces = [encoder.encode(samples[start : start + hop]) for start in range(0, len(samples), hop)]
    return [*pieces, encoder.finish()], encoder


def decoded(data):
    """Samples and rate by FFmpeg."""
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(audio=0))
    resampler = av.AudioResampler(format="flt", layout="mono", rate=frames[0].sample_rate)
    arrays = [part.to_ndarray()[0] for frame in frames for part in resampler.resample(frame)]
    return np.concatenate(arrays), frames[0].sample_rate


def loudest_hz(samples, rate_hz):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return np.argmax(spectrum) * rate_hz / len(samples)


def check_sound(name, samples, rate_hz, seconds=DURATION_S):
    assert len(samples) / rate_hz == pytest.approx(seconds, abs=PADDING[name] / rate_hz + 0.002)
    middle = samples[rate_hz : 2 * rate_hz]
    assert loudest_hz(middle, rate_hz) == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.06)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "pcm"])
@pytest.mark.parametrize("is_complete", [False, True])
def test_two_decoders_hear_what_was_encoded(name, is_complete):
    data = encode_complete(SAMPLES, name) if is_complete else b"".join(streamed(name)[0])
    check_sound(name, *decoded(data))
    if name == "aac" or (name == "flac" and not is_complete):  # libsndfile reads neither
        return
    check_sound(name, *soundfile.read(io.BytesIO(data), dtype="float32"))


@pytest.mark.parametrize("name", FORMATS)
def test_the_first_piece_already_gives_bytes(name):
    """A player can start after the first 200 ms, and every later piece brings more."""
    pieces, _ = streamed(name)
    assert all(pieces[:-1])


@pytest.mark.parametrize("name", ["pcm", "wav"])
def test_no_piece_ends_within_a_sample(name):
    pieces, _ = streamed(name, SAMPLES[:7001], 16_000, hop=333)
    assert all(len(piece) % 2 == 0 for piece in pieces)


def test_pcm_is_the_samples_themselves():
    pieces, _ = streamed("pcm")
    assert b"".join(pieces) == to_int16(SAMPLES).tobytes() == encode_complete(SAMPLES, "pcm")


def test_loud_samples_are_clipped_and_never_wrap_around():
    loud = np.array([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.08, 3.0], np.float32)
    assert to_int16(loud).tolist() == [-32767, -32767, -16384, 0, 16384, 32767, 32767, 32767]


@pytest.mark.parametrize("name", FORMATS)
def test_samples_that_are_no_numbers_are_a_failure_not_silence(name):
    bad = SAMPLES[:4800].copy()
    bad[7] = np.nan
    with pytest.raises(EngineFailure, match="no numbers"):
        open_encoder(name).encode(bad)
    with pytest.raises(EngineFailure, match="no numbers"):
        encode_complete(bad, name)


def test_streamed_wav_states_unknown_sizes_and_complete_wav_true_ones():
    streamed_wav = b"".join(streamed("wav")[0])
    assert len(wav_header(24_000, None)) == 44
    assert streamed_wav[4:8] == streamed_wav[40:44] == b"\xff\xff\xff\xff"
    with wave.open(io.BytesIO(encode_complete(SAMPLES, "wav"))) as file:
        assert (file.getnframes(), file.getframerate(), file.getnchannels(), file.getsampwidth()) == (
            72_000,
            24_000,
            1,
            2,
        )
    with wave.open(io.BytesIO(streamed_wav)) as file:
        assert len(file.readframes(10**6)) == 144_000


def test_complete_flac_states_its_length():
    assert soundfile.info(io.BytesIO(encode_complete(SAMPLES, "flac"))).frames == 72_000


def test_streamed_mp3_has_neither_tag_nor_xing_frame():
    data = b"".join(streamed("mp3")[0])
    assert data[:2] in (b"\xff\xf3", b"\xff\xf2")  # MPEG-2 layer III from the first byte
    assert b"Xing" not in data
    assert b"Info" not in data


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "pcm"])
@pytest.mark.parametrize("rate_hz", [8000, 16_000, 22_050, 48_000])
def test_other_sample_rates_keep_pitch_and_length(name, rate_hz):
    pieces, encoder = streamed(name, rate_hz=rate_hz)
    assert encoder.sample_rate_hz >= rate_hz
    check_sound(name, *decoded(b"".join(pieces)))
    check_sound(name, *decoded(encode_complete(SAMPLES, name, rate_hz)))


def test_resampled_pcm_is_as_long_as_it_should_be():
    data = b"".join(streamed("pcm", rate_hz=16_000)[0])
    check_sound("pcm", np.frombuffer(data, "<i2") / 32767, 16_000)


def test_a_rate_the_codec_does_not_know_is_refused_with_the_list():
    with pytest.raises(Unsupported, match="44100"):
        open_encoder("mp3", 11_111)
    check_sound("flac", *decoded(encode_complete(SAMPLES, "flac", 11_111)))


@pytest.mark.parametrize("name", FORMATS)
def test_no_samples_at_all_is_no_crash(name):
    encoder = open_encoder(name)
    assert encoder.encode(np.zeros(0, np.float32)) == b""
    encoder.finish()
    encode_complete(np.zeros(0, np.float32), name)
