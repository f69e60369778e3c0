"""`CosyVoice-BlankEN/config.json`: the sizes of the language model's backbone, checked against its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from light_tts.errors import CheckpointError
from light_tts.models.family import Shapes
from light_tts.models.vocabulary import read_json

_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
_LAYERS = "llm.model.model.layers."


def read_backbone(path: Path) -> dict[str, Any]:
    """The file with every field the engine reads present and of the right kind (names of Hugging Face configs).

    Raises CheckpointError naming the field.
    """
    backbone: dict[str, Any] = read_json(path)
    nested = backbone.get("rope_parameters")  # where newer writers put it
    if "rope_theta" not in backbone and isinstance(nested, dict) and "rope_theta" in nested:
        backbone["rope_theta"] = nested["rope_theta"]
    backbone.setdefault("rms_norm_eps", 1e-6)
    backbone.setdefault("rope_theta", 1_000_000.0)
    backbone.setdefault("max_position_embeddings", 32768)
    for key in (*_SIZES, "max_position_embeddings"):
        if type(backbone.get(key)) is not int or backbone[key] < 1:
            raise CheckpointError(f"{path}: {key} is {backbone.get(key)!r}, expected a whole number above zero.")
    if backbone.get("head_dim") is None:
        backbone["head_dim"] = backbone["hidden_size"] // backbone["num_attention_heads"]
    for key in ("rms_norm_eps", "rope_theta", "head_dim"):
        if type(backbone[key]) not in (int, float) or not backbone[key] > 0:
            raise CheckpointError(f"{path}: {key} is {backbone[key]!r}, expected a number above zero.")
    for key, supported in (("hidden_act", "silu"), ("use_sliding_window", False), ("rope_scaling", None)):
        if backbone.get(key, supported) != supported:
            raise CheckpointError(f"{path}: {key} is {backbone[key]!r}; only {supported!r} is supported.")
    if backbone["num_attention_heads"] % backbone["num_key_value_heads"]:
        raise CheckpointError(f"{path}: num_attention_heads is not a multiple of num_key_value_heads.")
    return backbone


def check_backbone(backbone: Mapping[str, Any], shapes: Shapes, what: str) -> None:
    """Compare the configured sizes with a language model's weights. Raises CheckpointError naming both numbers."""
    layer_numbers = {key.removeprefix(_LAYERS).partition(".")[0] for key in shapes if key.startswith(_LAYERS)}
    found = {
        "vocab_size": _axis(shapes, "llm.model.model.embed_tokens.weight", 0),
        "hidden_size": _axis(shapes, "llm.model.model.embed_tokens.weight", 1),
        "intermediate_size": _axis(shapes, f"{_LAYERS}0.mlp.gate_proj.weight", 0),
        "num_hidden_layers": len(layer_numbers),
        "num_attention_heads": _heads(shapes, "q_proj", backbone),
        "num_key_value_heads": _heads(shapes, "k_proj", backbone),
    }
    wrong = [
        f"{key} {backbone[key]} (the weights have {value})" for key, value in found.items() if backbone[key] != value
    ]
    if wrong:
        raise CheckpointError(
            f"CosyVoice-BlankEN/config.json does not fit {what}: it says {', '.join(wrong)}; "
            "take both from the same model."
        )


def _axis(shapes: Shapes, key: str, axis: int) -> int | None:
    shape = shapes.get(key)
    return int(shape[axis]) if shape is not None and len(shape) > axis else None


def _heads(shapes: Shapes, name: str, backbone: Mapping[str, Any]) -> float | None:
    rows = _axis(shapes, f"{_LAYERS}0.self_attn.{name}.weight", 0)
    return None if rows is None else rows / backbone["head_dim"]
