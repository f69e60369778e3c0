"""A model directory in the published layout, opened: what is in it, the values the engine needs, the networks.

Opening reads small files only and loads no torch; weights are read by the `load_*` methods. Nothing is ever written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from light_tts.errors import CheckpointError
from light_tts.models.backbone import check_backbone, read_backbone
from light_tts.models.checkpoint import find_weights, load_weights, read_shapes, require_finite
from light_tts.models.family import Component, ModelFamily, Shapes, detect, family_of_weights
from light_tts.models.model_config import ModelConfig, SamplingDefaults, read_model_config
from light_tts.models.speech_ids import SpeechIds
from light_tts.models.styles import DEFAULT_STYLE, STYLE_FILENAME, check_styles_inside, choose_style, read_styles
from light_tts.models.vocabulary import END_OF_PROMPT, TOKENIZER_FILES, special_token_ids
from light_tts.models.yaml_config import read_config

if TYPE_CHECKING:
    import torch

    from light_tts.models.nets.flow_net import FlowNet
    from light_tts.models.nets.hift import HiftNet
    from light_tts.models.nets.matrix import MakeMatrix
    from light_tts.models.nets.speech_lm import SpeechLM

TOKENIZER_DIRNAME = "CosyVoice-BlankEN"
SPEAKER_ENCODER_FILENAME = "campplus.onnx"
SPEAKER_REGISTRY_FILENAME = "spk2info.pt"


@dataclass(frozen=True, eq=False)
class ModelDirectory:
    """One opened model directory (spec: model_dir).

    path:                  the directory.
    family:                which generation of models it is.
    config:                its YAML as plain data (class names under "!class").
    values:                the values of it that are used, typed.
    backbone:              sizes of the language model, names as in Hugging Face configs.
    styles:                name -> weight file of each language model, the default first.
    speech_tokenizer_path, speaker_encoder_path:  ONNX models for prompt audio; None: only registered voices.
    speaker_registry_path: registered voices; None: there are none.
    """

    path: Path
    family: ModelFamily
    config: dict[str, Any]
    values: ModelConfig
    backbone: dict[str, Any]
    styles: dict[str, Path]
    flow_path: Path
    hift_path: Path
    tokenizer_dir: Path
    speech_tokenizer_path: Path | None
    speaker_encoder_path: Path | None
    speaker_registry_path: Path | None

    @classmethod
    def open(cls, path: Path | str, *, styles_outside: bool = False) -> ModelDirectory:
        """Look at a directory and read its small files.

        styles_outside:  `style_config.json` may name weights outside the directory.

        Raises CheckpointError with one sentence: not a model directory, two versions in one, all that is missing, a
        value that is wrong or not supported.
        """
        path = Path(path).expanduser()
        if not path.is_dir():
            raise CheckpointError(f"There is no directory {path}; give the folder that holds the model's files.")
        family = detect(path)
        styles = read_styles(path)
        if not styles_outside:
            check_styles_inside(styles, path)
        _require_files(path, family, styles)
        config = read_config(path / family.config_filename)
        return cls(
            path=path,
            family=family,
            config=config,
            values=read_model_config(config, family),
            backbone=read_backbone(path / TOKENIZER_DIRNAME / "config.json"),
            styles=styles,
            flow_path=find_weights(path, "flow") or path / "flow.pt",
            hift_path=find_weights(path, "hift") or path / "hift.pt",
            tokenizer_dir=path / TOKENIZER_DIRNAME,
            speech_tokenizer_path=_if_file(path / family.speech_tokenizer_filename),
            speaker_encoder_path=_if_file(path / SPEAKER_ENCODER_FILENAME),
            speaker_registry_path=_if_file(path / SPEAKER_REGISTRY_FILENAME),
        )

    @property
    def name(self) -> str:
        """What to call this model: the directory's name (of a hub cache, the repository's)."""
        path = self.path.absolute()
        cached = re.fullmatch(r"models--.+--(.+)", path.parent.parent.name)
        return cached[1] if path.parent.name == "snapshots" and cached else path.name

    @property
    def llm_path(self) -> Path:
        """Weights of the default language model."""
        return next(iter(self.styles.values()))

    @property
    def sampling(self) -> SamplingDefaults:
        """The checkpoint's own sampling values."""
        return self.values.sampling

    @property
    def mix_ratio(self) -> tuple[int, int]:
        """Text ids and speech codes of one bi-stream block."""
        return self.values.mix_ratio

    @property
    def chunk_tokens(self) -> int:
        """Speech tokens of one attention chunk: the grid of streaming."""
        return self.values.chunk_tokens

    @property
    def token_mel_ratio(self) -> int:
        """Mel frames of one speech token."""
        return self.values.token_mel_ratio

    @property
    def lookahead_tokens(self) -> int:
        """Speech tokens a non-final call sees beyond the frames it yields."""
        return self.values.lookahead_tokens

    @property
    def sample_rate_hz(self) -> int:
        """Of the audio that comes out."""
        return self.values.sample_rate_hz

    @property
    def prompt_mel_fmax_hz(self) -> float | None:
        """Upper edge of the prompt's mel filters; None is half the sample rate."""
        return self.values.prompt_mel_fmax_hz

    @property
    def accepts_prompt_audio(self) -> bool:
        """True when both models that read prompt audio are there."""
        return self.speech_tokenizer_path is not None and self.speaker_encoder_path is not None

    @cached_property
    def special_token_ids(self) -> dict[str, int]:
        """Text id of each special token of the family. Raises CheckpointError: see `vocabulary.special_token_ids`."""
        ids = special_token_ids(self.tokenizer_dir, self.family.special_tokens)
        highest, rows = max(ids.values()), self.backbone["vocab_size"]
        if highest >= rows:
            raise CheckpointError(
                f"The vocabulary in {self.tokenizer_dir} reaches id {highest}, but the language model has {rows} text "
                "rows; take tokenizer and weights from the same model."
            )
        return ids

    def speech_ids(self, style: str = DEFAULT_STYLE) -> SpeechIds:
        """Control ids of a style's language model. Raises UnknownModel, CheckpointError."""
        path = self.styles[choose_style(self.styles, style)]
        return self._speech_ids(read_shapes(path), path)

    def load_llm(
        self,
        style: str = DEFAULT_STYLE,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        make_matrix: MakeMatrix | None = None,
    ) -> SpeechLM:
        """The language model of a style, checked key by key.

        dtype:        of its matrices, default float32.
        make_matrix:  stores the matrices of its body in some other way than as they are.

        Raises UnknownModel for a style that is not there, CheckpointError for a file that does not fit.
        """
        path = self.styles[choose_style(self.styles, style)]
        state, shapes = self._read("llm", path)
        ids = self._speech_ids(shapes, path)
        return self.family.build_llm(self.backbone, state, ids, _dtype(dtype), device, make_matrix)

    def load_flow(self, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> FlowNet:
        """The flow, checked key by key. dtype: of its matrices, default float32. Raises CheckpointError."""
        state, shapes = self._read("flow", self.flow_path)
        rows = shapes.get("input_embedding.weight", (0,))[0]
        if rows != self.values.num_codes:
            raise CheckpointError(
                f"{self.flow_path.name} knows {rows} speech codes, but {self.family.config_filename} declares "
                f"{self.values.num_codes} for the language model; one of the two files is from another model."
            )
        with self._config_errors("flow"):
            return self.family.build_flow(self.values.flow, state, _dtype(dtype), device)

    def load_vocoder(self, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> HiftNet:
        """The vocoder, checked key by key. dtype: of its matrices, default float32. Raises CheckpointError."""
        state, _ = self._read("hift", self.hift_path)
        with self._config_errors("hift"):
            return self.family.build_vocoder(self.values.hift, state, _dtype(dtype), device)

    @contextmanager
    def _config_errors(self, section: str) -> Iterator[None]:
        """The YAML's sections are plain data: what a builder misses in one is the file's fault."""
        try:
            yield
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise CheckpointError(
                f"The section {section} of {self.family.config_filename} lacks a value or has a wrong one ({reason}); "
                f"use the file of {self.family.published_name}."
            ) from error

    def _speech_ids(self, shapes: Shapes, path: Path) -> SpeechIds:
        check_backbone(self.backbone, shapes, path.name)
        end_of_prompt = self.special_token_ids[END_OF_PROMPT]
        return self.family.speech_ids(
            shapes, num_codes=self.values.num_codes, end_of_prompt=end_of_prompt, what=path.name
        )

    def _read(self, component: Component, path: Path) -> tuple[dict[str, torch.Tensor], dict[str, tuple[int, ...]]]:
        state = load_weights(path)
        shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
        self._require_family(component, shapes, path)
        require_finite(state, path.name)
        return state, shapes

    def _require_family(self, component: Component, shapes: Shapes, path: Path) -> None:
        """Refuse weights of another family, saying which of the directory's files stand together."""
        other = family_of_weights(component, shapes)
        if other is self.family:
            return
        if other is None:
            raise CheckpointError(
                f"{path.name} holds no {component} weights of any supported model; "
                f"use the file of {self.family.published_name}."
            )
        sides: dict[str, list[str]] = {self.family.name: [self.family.config_filename], other.name: [path.name]}
        others: tuple[tuple[Component, Path], ...] = (
            ("llm", self.llm_path),
            ("flow", self.flow_path),
            ("hift", self.hift_path),
        )
        for kind, file in others:
            family = family_of_weights(kind, read_shapes(file)) if kind != component else None
            if family is not None:
                sides.setdefault(family.name, []).append(file.name)
        told = "; ".join(f"{', '.join(files)}: {name}" for name, files in sides.items())
        raise CheckpointError(
            f"{self.path} mixes files of different models ({told}); replace those that do not belong."
        )


def _require_files(path: Path, family: ModelFamily, styles: dict[str, Path]) -> None:
    missing = []
    if (path / STYLE_FILENAME).is_file():
        missing += [f"{file} (style {name!r})" for name, file in styles.items() if not file.is_file()]
    elif find_weights(path, "llm") is None:
        missing.append("llm.pt (or llm.safetensors)")
    missing += [f"{stem}.pt (or {stem}.safetensors)" for stem in ("flow", "hift") if find_weights(path, stem) is None]
    tokenizer_files = [f"{TOKENIZER_DIRNAME}/{name}" for name in TOKENIZER_FILES]
    missing += [name for name in tokenizer_files if not (path / name).is_file()]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; copy what is missing from {family.published_name}.")


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _dtype(dtype: torch.dtype | None) -> torch.dtype:
    import torch

    return dtype or torch.float32
