"""What the models know of a recording: speech tokens, speaker embedding, mel (spec: frontend, 3.2 to 3.5)."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Protocol

import torch

from light_tts.errors import CheckpointError
from light_tts.frontend.features import prompt_mel, speaker_features, whisper_log_mel
from light_tts.types import SPEAKER_DIM


class ReferenceFeatures(Protocol):
    """Reads mono waves, [N] float32 in [-1, 1]; safe from many threads."""

    def speech_tokens(self, wave_16k: torch.Tensor) -> torch.Tensor:
        """[ceil(N / 640)] int64 speech codes."""

    def speaker(self, wave_16k: torch.Tensor) -> torch.Tensor:
        """[192] float32 speaker embedding, not normalised."""

    def mel(self, wave_24k: torch.Tensor) -> torch.Tensor:
        """[N // 480, 80] float32 log-mel."""


class OnnxReferenceFeatures:
    """The published ONNX models on the CPU, one thread each; a session is opened at its first use.

    speech_tokenizer_path, speaker_encoder_path:  the model files.
    mel_fmax_hz:                                  upper edge of the mel filters; None is the Nyquist frequency.

    Raises CheckpointError at first use when a file cannot be loaded or is not the model it should be.
    """

    def __init__(self, speech_tokenizer_path: Path, speaker_encoder_path: Path, mel_fmax_hz: float | None) -> None:
        self._speech_tokenizer = _LazySession(speech_tokenizer_path, num_inputs=2)
        self._speaker_encoder = _LazySession(speaker_encoder_path, num_inputs=1)
        self._mel_fmax_hz = mel_fmax_hz

    def speech_tokens(self, wave_16k: torch.Tensor) -> torch.Tensor:
        """See `ReferenceFeatures`."""
        features = whisper_log_mel(wave_16k)[None]
        length = torch.tensor([features.shape[2]], dtype=torch.int32)
        return self._speech_tokenizer.run(features, length).reshape(-1).to(torch.int64)

    def speaker(self, wave_16k: torch.Tensor) -> torch.Tensor:
        """See `ReferenceFeatures`."""
        embedding = self._speaker_encoder.run(speaker_features(wave_16k)[None]).reshape(-1).float()
        if embedding.shape[0] != SPEAKER_DIM or not bool(torch.isfinite(embedding).all()):
            raise CheckpointError(
                f"{self._speaker_encoder.path} gave {embedding.shape[0]} numbers, some perhaps not finite; expected "
                f"{SPEAKER_DIM}. It is not a speaker model of this kind."
            )
        return embedding

    def mel(self, wave_24k: torch.Tensor) -> torch.Tensor:
        """See `ReferenceFeatures`."""
        return prompt_mel(wave_24k, self._mel_fmax_hz)


class _LazySession:
    """An ONNX Runtime session opened once, whoever asks first. Inputs go by position: names differ between exports."""

    def __init__(self, path: Path, num_inputs: int) -> None:
        self.path = path
        self._num_inputs = num_inputs
        self._lock = threading.Lock()
        self._session: Any = None
        self._input_names: list[str] = []

    def run(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The first output."""
        session = self._open()
        feed = {name: value.numpy() for name, value in zip(self._input_names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    def _open(self) -> Any:
        with self._lock:
            if self._session is None:
                session = _load_session(self.path)
                names = [value.name for value in session.get_inputs()]
                if len(names) != self._num_inputs:
                    raise CheckpointError(
                        f"{self.path} has {len(names)} inputs, expected {self._num_inputs}; it is another model."
                    )
                self._input_names, self._session = names, session
            return self._session


def _load_session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise CheckpointError(
            "Reference audio needs the package 'onnxruntime'; install it with: pip install onnxruntime."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors only: exports are full of harmless warnings
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's errors share no base class
        raise CheckpointError(f"{path} cannot be loaded ({str(error)[:200]}); copy the file again.") from error
