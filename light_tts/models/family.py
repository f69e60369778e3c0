"""The families of published models: what differs between them, as data and three builders.

A new family is one file with a `FAMILY` and one line in `_MODULES`. Nobody outside this package asks which one it is.
Imports no torch; the networks are imported by the builders.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from light_tts.errors import CheckpointError
from light_tts.models.speech_ids import SpeechIds

if TYPE_CHECKING:
    import torch

    from light_tts.models.nets.flow_net import FlowNet
    from light_tts.models.nets.hift import HiftNet
    from light_tts.models.nets.matrix import MakeMatrix
    from light_tts.models.nets.speech_lm import SpeechLM

_MODULES = ("light_tts.models.cosyvoice2", "light_tts.models.cosyvoice3")
_FIRST_GENERATION_CONFIG = "cosyvoice.yaml"

Component = Literal["llm", "flow", "hift"]
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class ModelFamily:
    """One generation of models.

    name:                   of the family, as users know it.
    generation:             its number.
    published_name:         of the published model of this family.
    config_filename:        the YAML whose presence says that a directory is of this family.
    class_names:            last part of the class path that the YAML gives for `llm`, `flow` and `hift`.
    special_tokens:         text tokens added to the base vocabulary, in order.
    default_prompt_prefix:  put before a prompt text that lacks the end-of-prompt tag; empty: none is needed.
    needs_end_of_prompt:    True when every prompt must hold that tag.
    prompt_mel_fmax_hz:     upper edge of the prompt's mel filters where the YAML is silent; None: half the sample rate.
    speech_tokenizer_filename: of the ONNX model that turns prompt audio into speech codes.
    num_control_ids:        rows of the language model's head beyond the speech codes.
    recognises:             (component, shapes by key) -> True when a weight file is of this family.
    speech_ids_of:          (num_codes, text_rows, end_of_prompt) -> SpeechIds.
    build_llm, build_flow, build_vocoder:  see the methods of `ModelDirectory` that call them.
    """

    name: str
    generation: int
    published_name: str
    config_filename: str
    class_names: Mapping[Component, str]
    special_tokens: tuple[str, ...]
    default_prompt_prefix: str
    needs_end_of_prompt: bool
    prompt_mel_fmax_hz: float | None
    speech_tokenizer_filename: str
    num_control_ids: int
    recognises: Callable[[Component, Shapes], bool]
    speech_ids_of: Callable[[int, int, int], SpeechIds]
    build_flow: Callable[[Mapping[str, Any], Mapping[str, torch.Tensor], torch.dtype, torch.device | str], FlowNet]
    build_vocoder: Callable[[Mapping[str, Any], Mapping[str, torch.Tensor], torch.dtype, torch.device | str], HiftNet]

    def speech_ids(self, shapes: Shapes, *, num_codes: int, end_of_prompt: int, what: str = "llm.pt") -> SpeechIds:
        """Control ids from the shapes of a language model's weights (spec: llm, sections 2 and 3).

        num_codes:      speech codes that the YAML declares.
        end_of_prompt:  text id of the tag, from the tokenizer.
        Raises CheckpointError when the head and the YAML disagree.
        """
        for key in ("llm_decoder.weight", "speech_embedding.weight", "llm.model.model.embed_tokens.weight"):
            if key not in shapes or len(shapes[key]) != 2:
                raise CheckpointError(f"{what} has no matrix {key}; it is not a language model of this kind.")
        for key in ("llm_decoder.weight", "speech_embedding.weight"):
            rows = int(shapes[key][0])
            if rows != num_codes + self.num_control_ids:
                raise CheckpointError(
                    f"{key} of {what} has {rows} rows, but {self.config_filename} declares {num_codes} speech codes, "
                    f"which makes {num_codes + self.num_control_ids}; one of the two files is from another model."
                )
        text_rows = int(shapes["llm.model.model.embed_tokens.weight"][0])
        return self.speech_ids_of(num_codes, text_rows, end_of_prompt)

    def build_llm(
        self,
        backbone: Mapping[str, Any],
        state: Mapping[str, torch.Tensor],
        ids: SpeechIds,
        dtype: torch.dtype,
        device: torch.device | str,
        make_matrix: MakeMatrix | None = None,
    ) -> SpeechLM:
        """The language model; the families differ in ids and keys only, which `ids` and `state` carry."""
        from light_tts.models.nets.speech_lm import build_speech_lm

        return build_speech_lm(backbone, state, ids, dtype=dtype, device=device, make_matrix=make_matrix)


@cache
def families() -> tuple[ModelFamily, ...]:
    """All families, oldest first."""
    return tuple(import_module(module).FAMILY for module in _MODULES)


def family_named(name: str) -> ModelFamily:
    """The family of that name. Raises CheckpointError listing the names there are."""
    for family in families():
        if family.name == name:
            return family
    raise CheckpointError(f"There is no model family {name!r}; there are {', '.join(f.name for f in families())}.")


def detect(model_dir: Path) -> ModelFamily:
    """The family of a model directory, by the YAML in it (spec: model_dir, section 1). Raises CheckpointError."""
    found = [family for family in families() if (model_dir / family.config_filename).is_file()]
    if len(found) == 1:
        return found[0]
    names = " and ".join(family.config_filename for family in found)
    expected = " or ".join(family.config_filename for family in families())
    if found:
        raise CheckpointError(f"{model_dir} holds {names}; a model directory has one of them, so remove the wrong one.")
    if (model_dir / _FIRST_GENERATION_CONFIG).is_file():
        raise CheckpointError(
            f"{model_dir} holds {_FIRST_GENERATION_CONFIG} only, so it is a model of the first generation (or a very "
            f"old copy of the second), which is not supported; use a directory with {expected}."
        )
    raise CheckpointError(f"{model_dir} is not a model directory: it has no {expected}.")


def family_of_weights(component: Component, shapes: Shapes) -> ModelFamily | None:
    """The family whose weights these are, or None when no family knows them."""
    plain = {key.replace("generator.", ""): shape for key, shape in shapes.items()} if component == "hift" else shapes
    return next((family for family in families() if family.recognises(component, plain)), None)


def load_special_tokens(family_name: str) -> tuple[str, ...]:
    """The ordered list of text tokens that a family adds to the base vocabulary (spec: frontend, section 1)."""
    text = resources.files("light_tts.models").joinpath("manifests/special_tokens.json").read_text(encoding="utf-8")
    return tuple(json.loads(text)[family_name])


def last_axis(shapes: Shapes, *keys: str) -> int | None:
    """Length of the last axis of the first of these keys that exists."""
    return next((int(shapes[key][-1]) for key in keys if shapes.get(key)), None)
