"""Settings from where people put them: default < preset < configuration file < environment < flag.

Every value keeps its origin, so that `--print-config` and the log can say where it came from. Nothing is ignored in
silence: an unknown key of a file is an error, an unknown environment variable of ours a warning.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from light_tts.errors import ConfigError
from light_tts.settings import Settings
from light_tts.settings_spec import did_you_mean, setting_specs

ENVIRONMENT_PREFIX = "LIGHT_TTS_"
_CONFIG_VARIABLE = ENVIRONMENT_PREFIX + "CONFIG"
_PRESET_VARIABLE = ENVIRONMENT_PREFIX + "PRESET"
_HIDDEN = frozenset({"api_key"})


@dataclass(frozen=True)
class LoadedSettings:
    """The settings in force, and where each value came from.

    origins:   setting name -> "default", "preset NAME", "file PATH", "environment NAME" or "flag --name".
    warnings:  one sentence each, for the log.
    """

    settings: Settings
    origins: dict[str, str]
    warnings: tuple[str, ...] = ()

    def describe(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Branch -> setting -> {"value", "origin"}, ready for JSON; secrets are not shown."""
        described: dict[str, dict[str, dict[str, Any]]] = {}
        for name, spec in setting_specs().items():
            value = getattr(getattr(self.settings, spec.branch), name)
            if name in _HIDDEN and value:
                value = f"<{len(value)} hidden>"
            elif isinstance(value, Path):
                value = str(value)
            described.setdefault(spec.branch, {})[name] = {"value": value, "origin": self.origins[name]}
        return described


def load_settings(
    flags: Mapping[str, object] | None = None,
    *,
    base: Mapping[str, object] | None = None,
    preset: str | None = None,
    config_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> LoadedSettings:
    """Merge all sources into one checked tree.

    flags:        setting name -> word or value, from the command line.
    base:         defaults of the calling command, below everything else.
    preset:       name of a file in `light_tts/presets`; else the environment's LIGHT_TTS_PRESET.
    config_file:  TOML, YAML or JSON; keys flat or grouped as in `Settings`; else LIGHT_TTS_CONFIG.
    environment:  default `os.environ`; an empty variable counts as not set.

    Raises ConfigError naming the source, the value and what is allowed.
    """
    environment = os.environ if environment is None else environment
    preset = preset or environment.get(_PRESET_VARIABLE) or None
    config_name = str(config_file or environment.get(_CONFIG_VARIABLE) or "")
    values: dict[str, Any] = {}
    origins = dict.fromkeys(setting_specs(), "default")

    def put(layer: Mapping[str, object], origin: str, source: str) -> None:
        for name, value in layer.items():
            spec = setting_specs()[name]
            label = {"name": name, "flag": spec.flag, "variable": spec.environment_name}
            values[name] = spec.parse(value, source.format(**label))
            origins[name] = origin.format(**label)

    put(base or {}, "default", "{name}")
    if preset:
        put(_read_preset(preset), f"preset {preset}", f"preset {preset}: {{name}}")
    if config_name:
        shown = config_name.replace("{", "{{").replace("}", "}}")
        put(_read_file(Path(config_name).expanduser()), f"file {shown}", f"{shown}: {{name}}")
    from_environment, warnings = _read_environment(environment)
    put(from_environment, "environment {variable}", "{variable}")
    put(flags or {}, "flag {flag}", "{flag}")
    settings = _build(values)
    _check_together(settings, origins)
    return LoadedSettings(settings, origins, warnings)


def preset_names() -> list[str]:
    """The presets that are there."""
    names = (entry.name for entry in resources.files("light_tts.presets").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def _read_preset(name: str) -> dict[str, object]:
    if name not in preset_names():
        raise ConfigError(
            f"--preset: '{name}' is not a preset; use one of {', '.join(preset_names())}"
            f"{did_you_mean(name, preset_names())}"
        )
    text = (resources.files("light_tts.presets") / f"{name}.toml").read_text("utf-8")
    return _flatten(tomllib.loads(text), f"preset {name}")


def _read_file(path: Path) -> dict[str, object]:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"--config: cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--config: {path} is not a UTF-8 text file") from None
    try:
        data = _parse_text(text, path)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or "nested too deeply"
        raise ConfigError(f"--config: {path} is not valid {path.suffix[1:].upper()}: {reason}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"--config: {path} must hold a table of settings, not a {type(data).__name__}")
    return _flatten(data, str(path))


def _parse_text(text: str, path: Path) -> Any:
    """Data of a configuration file; every format's syntax error comes as ValueError."""
    kind = path.suffix.lower()
    if kind == ".toml":
        return tomllib.loads(text)
    if kind == ".json":
        return json.loads(text)
    if kind in (".yaml", ".yml"):
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from None
    raise ConfigError(f"--config: {path} ends in '{kind}'; use a file that ends in .toml, .yaml, .yml or .json")


def _flatten(data: dict[Any, Any], source: str) -> dict[str, object]:
    """Tables named like a branch of `Settings` are opened; everything else must be a setting."""
    branches = {item.name for item in fields(Settings)}
    flat: dict[str, object] = {}

    def add(key: object, value: object, branch: str | None) -> None:
        name = str(key).replace("-", "_")
        spec = setting_specs().get(name)
        if spec is None or (branch is not None and spec.branch != branch):
            known = [known.name for known in setting_specs().values() if branch in (None, known.branch)]
            place = f"{source}: [{branch}]" if branch else source
            raise ConfigError(f"{place}: there is no setting '{key}'{did_you_mean(name, known)}")
        if name in flat:
            raise ConfigError(f"{source}: '{name}' is given twice")
        flat[name] = value

    for key, value in data.items():
        if key in branches and isinstance(value, dict):
            for inner, inner_value in value.items():
                add(inner, inner_value, key)
        else:
            add(key, value, None)
    return flat


def _read_environment(environment: Mapping[str, str]) -> tuple[dict[str, object], tuple[str, ...]]:
    by_variable = {spec.environment_name: name for name, spec in setting_specs().items()}
    found: dict[str, object] = {}
    warnings = []
    for variable, value in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in (_CONFIG_VARIABLE, _PRESET_VARIABLE):
            continue
        if variable not in by_variable:
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
            hint = did_you_mean(name, list(setting_specs()))
            warnings.append(f"environment variable {variable} is not a setting and has no effect{hint}")
        elif value:
            found[by_variable[variable]] = value
    return found, tuple(sorted(warnings))


def _build(values: Mapping[str, Any]) -> Settings:
    settings = Settings()
    for branch in fields(Settings):
        own = {name: value for name, value in values.items() if setting_specs()[name].branch == branch.name}
        settings = replace(settings, **{branch.name: replace(getattr(settings, branch.name), **own)})
    return settings


def _check_together(settings: Settings, origins: Mapping[str, str]) -> None:
    """Pairs of settings of which the first must not exceed the second, or that need each other."""
    for branch, lower, upper in (
        ("llm", "max_request_tokens", "max_total_tokens"),
        ("acoustic", "first_hop_tokens", "max_hop_tokens"),
        ("frontend", "min_prompt_s", "max_prompt_s"),
    ):
        low, high = (getattr(getattr(settings, branch), name) for name in (lower, upper))
        if low > high:
            raise ConfigError(
                f"{lower} ({low:g}, from {origins[lower]}) is above {upper} ({high:g}, from {origins[upper]}); "
                "lower the first or raise the second"
            )
    is_custom, path = settings.llm.quant_type == "custom", settings.llm.custom_cfg_path
    if is_custom and path is None:
        raise ConfigError(
            f"quant_type custom (from {origins['quant_type']}) needs custom_cfg_path, a YAML of layers and their types"
        )
    if path is not None and not is_custom:
        raise ConfigError(
            f"custom_cfg_path ({path}, from {origins['custom_cfg_path']}) is read only with quant_type custom, but "
            f"quant_type is {settings.llm.quant_type}"
        )
