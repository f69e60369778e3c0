"""Which matrices of the language model are kept in which format: `quant_type`, and the YAML of `quant_type custom`.

The YAML has the layout of LightTTS's (spec: server, 1.6). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

from light_tts.errors import ConfigError
from light_tts.settings import LLMSettings
from light_tts.settings_spec import did_you_mean

WeightFormat = Literal["none", "int8", "int4", "fp8"]

# Formats by the names that other servers have for them.
PUBLISHED_FORMATS: Mapping[str, WeightFormat] = {
    "triton-int8weight": "int8",
    "triton-int4weight": "int4",
    "lmdeploy-int4weight": "int4",
    "ppl-int4weight": "int4",
    "triton-fp8w8a8": "fp8",
    "triton-fp8w8a8-b128": "fp8",
    "triton-fp8w8a8-block128": "fp8",
    "vllm-fp8w8a8": "fp8",
    "vllm-fp8w8a8-b128": "fp8",
}

# Published names of layers -> the matrix of `Qwen2Layer` that holds them.
MATRIX_OF_NAME: Mapping[str, str] = {
    "qkv_proj": "qkv", "q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "kv_proj": "qkv",
    "o_proj": "output",
    "gate_up_proj": "gate_up", "gate_proj": "gate_up", "up_proj": "gate_up",
    "down_proj": "down",
}  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """An entry of `mix_bits`. layers: None means all."""

    name: str
    layers: frozenset[int] | None
    format: WeightFormat

    def covers(self, layer: int, matrix: str) -> bool:
        """True when the entry speaks of this matrix."""
        return MATRIX_OF_NAME[self.name] == matrix and (self.layers is None or layer in self.layers)


@dataclass(frozen=True)
class WeightPlan:
    """A format for everything, and exceptions of which the last that covers a matrix counts."""

    default: WeightFormat = "none"
    rules: tuple[Rule, ...] = ()

    @property
    def keeps_all(self) -> bool:
        """True when nothing is quantised."""
        return self.default == "none" and all(rule.format == "none" for rule in self.rules)

    def format_of(self, layer: int, matrix: str) -> WeightFormat:
        """matrix: an attribute of `Qwen2Layer`."""
        covering = [rule.format for rule in self.rules if rule.covers(layer, matrix)]
        return covering[-1] if covering else self.default

    def check_layers(self, num_layers: int) -> None:
        """Raises ConfigError for an entry about a layer that the model does not have."""
        for rule in self.rules:
            missing = sorted(layer for layer in rule.layers or () if layer >= num_layers)
            if missing:
                raise ConfigError(
                    f"custom_cfg_path: {rule.name} has layer_nums {missing[0]}, but the model's layers are numbered 0 "
                    f"to {num_layers - 1}"
                )


def plan_weights(settings: LLMSettings) -> WeightPlan:
    """What the settings ask for. Raises ConfigError for a file that is not there or says what cannot be done."""
    if settings.quant_type != "custom":
        return WeightPlan(settings.quant_type)
    if settings.custom_cfg_path is None:
        raise ConfigError("quant_type custom needs custom_cfg_path, a YAML of layers and their types")
    return read_weight_plan(settings.custom_cfg_path)


def read_weight_plan(path: Path) -> WeightPlan:
    """Read `quant_type` and the list `mix_bits` of {name, quant_type, layer_nums}. Raises ConfigError."""
    data = _load(path)
    _check_keys(data, {"quant_type", "mix_bits"}, str(path))
    if "quant_type" not in data:
        raise ConfigError(f"{path}: 'quant_type' is missing; it says how layers are kept that mix_bits does not name")
    entries = data.get("mix_bits") or []
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: mix_bits must be a list of entries {{name, quant_type, layer_nums}}")
    rules = tuple(_rule(entry, f"{path}: entry {number} of mix_bits") for number, entry in enumerate(entries, 1))
    for one, other in combinations(rules, 2):
        _check_parts(one, other, path)
    return WeightPlan(_format(data["quant_type"], f"{path}: quant_type"), rules)


def _load(path: Path) -> dict[Any, Any]:
    import yaml

    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"custom_cfg_path: cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"custom_cfg_path: {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"custom_cfg_path: {path} must hold quant_type and mix_bits, not a {type(data).__name__}")
    return data


def _check_keys(data: Mapping[Any, Any], known: set[str], source: str) -> None:
    for key in data:
        if key not in known:
            raise ConfigError(f"{source}: there is no key '{key}'{did_you_mean(str(key), sorted(known))}")


def _rule(entry: object, source: str) -> Rule:
    if not isinstance(entry, dict):
        raise ConfigError(f"{source} is {entry!r}, expected {{name, quant_type, layer_nums}}")
    _check_keys(entry, {"name", "quant_type", "layer_nums"}, source)
    name = str(entry.get("name"))
    if name not in MATRIX_OF_NAME:
        known = list(MATRIX_OF_NAME)
        raise ConfigError(
            f"{source}: there is no layer '{name}'; use one of {', '.join(known)}{did_you_mean(name, known)}"
        )
    if "quant_type" not in entry:
        raise ConfigError(f"{source}: 'quant_type' is missing; use none to leave {name} as it is")
    return Rule(name, _layers(entry.get("layer_nums"), source), _format(entry["quant_type"], f"{source}: quant_type"))


def _layers(numbers: object, source: str) -> frozenset[int] | None:
    if numbers is None:
        return None
    if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
        raise ConfigError(f"{source}: layer_nums is {numbers!r}, expected a list of layer numbers such as [0, 23]")
    return frozenset(numbers)


def _format(word: object, source: str) -> WeightFormat:
    text = str(word).strip().lower().replace("_", "-")
    formats: dict[str, WeightFormat] = {each: each for each in get_args(WeightFormat)} | dict(PUBLISHED_FORMATS)
    if word is None:  # an empty value, or YAML's own word for nothing
        return "none"
    if text not in formats:
        raise ConfigError(
            f"{source}: {word!r} is not allowed; use one of {', '.join(get_args(WeightFormat))}"
            f"{did_you_mean(text, list(formats))}"
        )
    return formats[text]


def _check_parts(one: Rule, other: Rule, path: Path) -> None:
    """Two parts of one matrix cannot be kept in two ways."""
    is_one_matrix = one.name != other.name and MATRIX_OF_NAME[one.name] == MATRIX_OF_NAME[other.name]
    meet = one.layers is None or other.layers is None or one.layers & other.layers
    if is_one_matrix and meet and one.format != other.format:
        raise ConfigError(
            f"{path}: {one.name} is {one.format} and {other.name} is {other.format}, but they are parts of one matrix "
            "here; give both the same quant_type"
        )
