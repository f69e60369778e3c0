"""Recordings to voices: limits, alignment, one extraction for many, failures forgotten."""

from __future__ import annotations

import io
import threading
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from light_tts.assets import builtin_model_dir
from light_tts.errors import BadAudio, CheckpointError
from light_tts.frontend.reference_features import OnnxReferenceFeatures
from light_tts.frontend.registry import load_registry
from light_tts.frontend.voice import VoiceExtractor, align
from light_tts.settings import FrontendSettings

RATE_HZ = 16000


def recording(seconds: float, rate_hz: int = RATE_HZ, seed: int = 0) -> bytes:
    samples = np.random.default_rng(seed).normal(0, 3000, round(seconds * rate_hz)).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate_hz)
        writer.writeframes(samples.tobytes())
    return file.getvalue()


class CountingFeatures:
    """Counts extractions; can be held up and can fail."""

    def __init__(self) -> None:
        self.calls = 0
        self.most_at_once = 0
        self.two_are_in = threading.Event()
        self._at_once = 0
        self._lock = threading.Lock()
        self.go = threading.Event()
        self.go.set()
        self.error: Exception | None = None

    def speech_tokens(self, wave_16k: torch.Tensor) -> torch.Tensor:
        with self._lock:
            self.calls += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            if self._at_once == 2:
                self.two_are_in.set()
        self.go.wait()
        with self._lock:
            self._at_once -= 1
        if self.error is not None:
            raise self.error
        return torch.arange(-(-wave_16k.shape[0] // 640))

    def speaker(self, wave_16k: torch.Tensor) -> torch.Tensor:
        return torch.ones(192)

    def mel(self, wave_24k: torch.Tensor) -> torch.Tensor:
        return torch.zeros(wave_24k.shape[0] // 480, 80)


def make(features: CountingFeatures, **settings: float) -> VoiceExtractor:
    return VoiceExtractor(features, FrontendSettings(**settings))


def test_codes_and_mel_are_aligned():
    voice = make(CountingFeatures()).extract(recording(1.01))
    assert voice.tokens.shape[0] * 2 == voice.mel.shape[0] == 50
    tokens, mel = align(torch.arange(21), torch.zeros(43, 80))
    assert (tokens.shape[0], mel.shape[0]) == (21, 42)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (recording(0.3), "at least 0.5 s"),
        (recording(31.0), "longer than 30 s"),
        (recording(30.01), "at most 30 s"),
        (recording(1.0, 8000), "8000 Hz"),
        (b"", "empty"),
    ],
)
def test_recordings_that_cannot_be_used(data: bytes, message: str):
    with pytest.raises(BadAudio, match=message):
        make(CountingFeatures()).extract(data)


def test_thirty_seconds_are_accepted():
    assert make(CountingFeatures()).extract(recording(30.0)).tokens.shape[0] == 750


def test_the_same_recording_is_read_once_however_many_ask():
    features = CountingFeatures()
    features.go.clear()
    extractor, data = make(features), recording(1.0)
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(extractor.extract, data) for _ in range(6)]
        features.go.set()
        voices = {id(future.result()) for future in futures}
    assert features.calls == 1
    assert len(voices) == 1


def test_a_failure_is_not_remembered():
    features = CountingFeatures()
    extractor, data = make(features), recording(1.0)
    features.error = RuntimeError("out of luck")
    with pytest.raises(RuntimeError):
        extractor.extract(data)
    features.error = None
    assert extractor.extract(data).id.startswith("sha256:")
    assert features.calls == 2


def test_the_least_recently_used_is_forgotten():
    features = CountingFeatures()
    extractor = make(features, voice_cache_capacity=2, voice_cache_reserved_ratio=1.0)
    first, second, third = (recording(1.0, seed=seed) for seed in range(3))
    for data in (first, second, first, third):
        extractor.extract(data)
    assert features.calls == 3
    extractor.extract(first)
    assert features.calls == 3
    extractor.extract(second)
    assert features.calls == 4


def test_a_full_cache_is_emptied_down_to_its_reserved_share():
    features = CountingFeatures()
    extractor = make(features, voice_cache_capacity=10, voice_cache_reserved_ratio=0.5)
    recordings = [recording(1.0, seed=seed) for seed in range(11)]
    for data in recordings[:10]:
        extractor.extract(data)
    assert extractor.cache_stats().entries == 10
    extractor.extract(recordings[10])
    assert extractor.cache_stats().entries == 5
    for data in recordings[6:]:  # those that were used last
        extractor.extract(data)
    assert features.calls == 11


def test_a_voice_in_use_is_not_forgotten():
    features = CountingFeatures()
    extractor = make(features, voice_cache_capacity=1)
    first, second, third = (recording(1.0, seed=seed) for seed in range(3))
    release = extractor.hold(extractor.extract(first).id)
    again = extractor.hold(extractor.extract(first).id)
    for data in (second, third, second):
        extractor.extract(data)
    extractor.extract(first)
    assert features.calls == 4  # only the second was read twice
    release()
    extractor.extract(third)
    extractor.extract(first)
    assert features.calls == 5
    again()
    assert extractor.cache_stats().entries <= 1


def test_no_more_recordings_than_allowed_are_read_at_once():
    features = CountingFeatures()
    features.go.clear()
    extractor = make(features, max_encodings=2)
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(extractor.extract, recording(1.0, seed=seed)) for seed in range(6)]
        features.two_are_in.wait()
        features.go.set()
        assert len({future.result().id for future in futures}) == 6
    assert features.most_at_once == 2


def test_nothing_is_remembered_without_capacity():
    features = CountingFeatures()
    extractor = make(features, voice_cache_capacity=0)
    for _ in range(2):
        extractor.extract(recording(1.0))
    assert features.calls == 2


def test_the_published_models_read_what_the_registry_holds():
    """The built-in voices were made from the built-in recordings."""
    directory = builtin_model_dir()
    features = OnnxReferenceFeatures(directory / "speech_tokenizer_v2.onnx", directory / "campplus.onnx", 8000.0)
    voice = VoiceExtractor(features, FrontendSettings()).extract((directory / "prompts/en_male.wav").read_bytes())
    registered = load_registry(directory / "spk2info.pt")["en_male"]
    assert torch.equal(voice.tokens, registered.tokens)
    torch.testing.assert_close(voice.mel, registered.mel, atol=1e-3, rtol=0)
    torch.testing.assert_close(voice.speaker, registered.speaker, atol=1e-3, rtol=1e-3)


def test_a_wrong_model_file_is_named(tmp_path: Path):
    broken = tmp_path / "campplus.onnx"
    broken.write_bytes(b"no model")
    features = OnnxReferenceFeatures(broken, broken, None)
    with pytest.raises(CheckpointError, match=r"campplus\.onnx"):
        features.speaker(torch.zeros(RATE_HZ))
    swapped = OnnxReferenceFeatures(
        builtin_model_dir() / "campplus.onnx", builtin_model_dir() / "speech_tokenizer_v2.onnx", None
    )
    with pytest.raises(CheckpointError, match="inputs"):
        swapped.speech_tokens(torch.zeros(RATE_HZ))


def test_voices_made_in_inference_mode_can_be_used_outside_it():
    with torch.inference_mode():
        voice = make(CountingFeatures()).extract(recording(1.0))
    assert not voice.mel.is_inference()
    assert not voice.tokens.is_inference()
