"""The YAML beside the weights, read as data: its tags name Python classes, and nothing is ever imported or called.

Knows the dialect (spec: model_dir, section 3), nothing of what the values mean. Scalars follow YAML 1.2 (`1e-06` is a
number, `yes` is a text). Anchors do not occur in these files and are refused, so the result is always a small tree.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from light_tts.errors import CheckpointError
from light_tts.models.yaml_references import Reference, resolve_references

MAX_FILE_BYTES = 1 << 20
CLASS_KEY = "!class"  # beside the keys of a tagged mapping: the class path its tag named
_OBJECT_TAGS = ("!new:", "!name:", "!apply:")
_CORE = "tag:yaml.org,2002:"
_ABSENT = object()


class ConfigSyntaxError(CheckpointError):
    """A YAML file that is not in the dialect of published model directories."""


class _DataLoader(yaml.SafeLoader):
    """Composes nodes with YAML 1.2 scalar rules; its constructors are never used."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - the attribute PyYAML looks at

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "anchors and aliases are not used here", mark)
        return super().compose_node(parent, index)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     "-+.0123456789"),
):  # fmt: skip
    _DataLoader.add_implicit_resolver(_CORE + _tag, re.compile(f"^(?:{_pattern})$"), list(_first))


def read_config(path: Path) -> dict[str, Any]:
    """The file as plain data: dicts, lists, str, int, float, bool, None, with every `!ref` resolved.

    A mapping tagged `!new:X`, `!name:X` or `!apply:X` keeps X under `CLASS_KEY`; a tagged sequence or scalar keeps its
    value only. Raises CheckpointError (one sentence with the line) for anything outside the dialect.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise CheckpointError(
                f"{path.name} has {size} bytes; a model's configuration is far below {MAX_FILE_BYTES}."
            )
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path.name} is not UTF-8 text, so it is not a model's configuration.") from error
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror or error}.") from error
    try:
        return parse_config(text)
    except ConfigSyntaxError as error:
        raise CheckpointError(f"{path.name} is not a valid model configuration: {error}.") from error


def parse_config(text: str) -> dict[str, Any]:
    """The data of a YAML text; see `read_config`. Raises ConfigSyntaxError."""
    try:
        node = yaml.compose(text, Loader=_DataLoader)
        if not isinstance(node, yaml.MappingNode):
            raise ConfigSyntaxError("the top level must be keys with values")
        tree = _to_data(node)
        return resolve_references(tree)
    except yaml.YAMLError as error:
        raise ConfigSyntaxError(_one_line(error)) from error
    except ValueError as error:
        raise ConfigSyntaxError(str(error)) from error
    except RecursionError as error:
        raise ConfigSyntaxError("it is nested too deeply") from error


def value_at(config: Any, dotted_path: str, default: Any = None) -> Any:
    """The value under a path such as "llm.sampling.top_p", or the default where a key is absent."""
    for key in dotted_path.split("."):
        config = config.get(key, _ABSENT) if isinstance(config, dict) else _ABSENT
        if config is _ABSENT:
            return default
    return config


def has_path(config: Any, dotted_path: str) -> bool:
    """True when every key of the path exists (its value may be null)."""
    return value_at(config, dotted_path, _ABSENT) is not _ABSENT


def class_name(section: Any) -> str | None:
    """Last part of the class path a section was tagged with: "Qwen2LM"; None for untagged data."""
    path = section.get(CLASS_KEY) if isinstance(section, dict) else None
    return path.rpartition(".")[2] if isinstance(path, str) else None


def _to_data(node: yaml.Node) -> Any:
    class_path = next((node.tag[len(tag) :] for tag in _OBJECT_TAGS if node.tag.startswith(tag)), None)
    if class_path == "":
        raise ConfigSyntaxError(f"line {_line(node)}: the tag {node.tag!r} names no class")
    if isinstance(node, yaml.MappingNode):
        if class_path is None:
            _require_tag(node, "map")
        return _mapping(node, class_path)
    if isinstance(node, yaml.SequenceNode):
        if class_path is None:
            _require_tag(node, "seq")
        return [_to_data(item) for item in node.value]
    if class_path is not None:
        return str(node.value)
    if node.tag == "!ref":
        return Reference(str(node.value), _line(node))
    return _scalar(node)


def _mapping(node: yaml.MappingNode, class_path: str | None) -> dict[str, Any]:
    result: dict[str, Any] = {} if class_path is None else {CLASS_KEY: class_path}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or not key_node.tag.startswith(_CORE):
            raise ConfigSyntaxError(f"line {_line(key_node)}: a key must be a plain word")
        key = str(key_node.value)
        if key in result or key == CLASS_KEY:
            raise ConfigSyntaxError(f"line {_line(key_node)}: the key {key!r} stands there twice")
        result[key] = _to_data(value_node)
    return result


def _scalar(node: yaml.Node) -> Any:
    text = str(node.value)
    match node.tag.removeprefix(_CORE):
        case "str":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        case "float":
            return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
        case _:
            raise ConfigSyntaxError(f"line {_line(node)}: unknown tag {node.tag!r}")


def _require_tag(node: yaml.Node, kind: str) -> None:
    if node.tag != _CORE + kind:
        raise ConfigSyntaxError(f"line {_line(node)}: unknown tag {node.tag!r}")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _one_line(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())
