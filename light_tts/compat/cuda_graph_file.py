"""`config/cuda_graph.yaml`: a table `cuda_graph` of enabled, max_batch_size, max_seq_length, warmup_iterations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from light_tts.compat.old_names import Outcome, no_effect, value_spec
from light_tts.errors import ConfigError
from light_tts.settings_spec import did_you_mean, setting_specs

ANY_LENGTH = "decoding with paged attention records the same graph for every length"

_FIELDS = {
    "enabled": value_spec("enabled", bool),
    "max_batch_size": setting_specs()["graph_max_batch_size"],
    "max_seq_length": value_spec("max_seq_length", int, ge=1),
    "warmup_iterations": setting_specs()["graph_warmup_iterations"],
}


def read_cuda_graph_file(path: Path, source: str) -> Outcome:
    """The settings of such a file; a setting given by its own name beside it holds. Raises ConfigError."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text file"
        raise ConfigError(f"{source}: cannot read {path}: {reason}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{source}: {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or not isinstance(data.get("cuda_graph"), dict):
        raise ConfigError(f"{source}: {path} must hold a table 'cuda_graph' of {', '.join(_FIELDS)}")
    return read_cuda_graph_table(data["cuda_graph"], f"{source}: {path}")


def read_cuda_graph_table(table: Mapping[Any, object], source: str) -> Outcome:
    """The settings of the table itself."""
    values: dict[str, object] = {}
    notes = []
    for key, value in table.items():
        name = str(key)
        if name not in _FIELDS:
            raise ConfigError(f"{source}: cuda_graph has no field '{name}'{did_you_mean(name, list(_FIELDS))}")
        parsed = _FIELDS[name].parse(value, f"{source}: {name}")
        if name == "enabled":
            values["disable_cudagraph"] = not parsed
        elif name == "max_seq_length":
            notes.append(f"max_seq_length {no_effect(ANY_LENGTH)}")
        else:
            values[_FIELDS[name].name] = parsed
    return Outcome(values, gives_way=True, notes=tuple(notes))
