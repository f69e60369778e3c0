"""Settings from where people put them: default < preset < configuration file < environment < flag.

Every value keeps its origin, so that `--print-config` and the log can say where it came from. Nothing is ignored in
silence: an unknown key of a file is an error, an unknown environment variable of ours a warning.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from light_tts.compat.environment import VARIABLES
from light_tts.compat.flags import OLD_NAMES, is_old_name
from light_tts.errors import ConfigError
from light_tts.settings import Settings
from light_tts.settings_advice import advice
from light_tts.settings_merge import Given, Merge, UsedOldName
from light_tts.settings_spec import did_you_mean, setting_specs

ENVIRONMENT_PREFIX = "LIGHT_TTS_"
_CONFIG_VARIABLE = ENVIRONMENT_PREFIX + "CONFIG"
_PRESET_VARIABLE = ENVIRONMENT_PREFIX + "PRESET"
PRESET_ALIASES = {"a10-short": "a10-short-text"}
_HIDDEN = frozenset({"api_key", "admin_key"})


@dataclass(frozen=True)
class LoadedSettings:
    """The settings in force, and where each value came from.

    origins:   setting name -> "default", "preset NAME", "file PATH", "environment NAME" or "flag --name".
    warnings:  one sentence each, for the log.
    notes:     the same, about old names that have no effect here.
    used:      the old names that were given.
    """

    settings: Settings
    origins: dict[str, str]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    used: Mapping[str, UsedOldName] = field(default_factory=dict)

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

    def start_lines(self) -> list[str]:
        """For the log of the start: every setting in force, and its origin where it is no default; then the notes."""
        shown = [
            f"{name}={entry['value']}" + ("" if entry["origin"] == "default" else f" ({entry['origin']})")
            for branch in self.describe().values()
            for name, entry in branch.items()
        ]
        return [f"effective configuration: {', '.join(shown)}", *self.notes]

    def describe_old_names(self) -> dict[str, dict[str, Any]]:
        """Old name -> {"value", "origin", "effect", "says"} of those that were given, ready for JSON."""
        return {
            name: {**asdict(used), "value": str(used.value) if isinstance(used.value, Path) else used.value}
            for name, used in self.used.items()
        }


def load_settings(
    flags: Mapping[str, object] | None = None,
    *,
    base: Mapping[str, object] | None = None,
    preset: str | None = None,
    default_preset: str | None = None,
    config: Mapping[str, object] | None = None,
    config_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
) -> LoadedSettings:
    """Merge all sources into one checked tree. Names are those of settings, or old names (`compat/flags.py`).

    flags:        name -> word or value, from the command line.
    base:         defaults of the calling command, below everything else.
    preset:       name of a file in `light_tts/presets`; else the environment's LIGHT_TTS_PRESET, else default_preset.
    config:       a mapping as a configuration file holds it, below such a file.
    config_file:  TOML, YAML or JSON; keys flat or grouped as in `Settings`; else LIGHT_TTS_CONFIG.
    environment:  default `os.environ`; an empty variable counts as not set.
    variables:    further variables of the calling command -> the name each stands for.

    Raises ConfigError naming the source, the value and what is allowed.
    """
    environment = os.environ if environment is None else environment
    preset = preset or environment.get(_PRESET_VARIABLE) or default_preset
    file_name = str(config_file or environment.get(_CONFIG_VARIABLE) or "")
    merge = Merge()
    merge.put((Given(name, value, name, "default") for name, value in (base or {}).items()), is_default=True)
    if preset:
        merge.put(_given_by(_read_preset(preset), f"preset {preset}", f"preset {preset}"), is_default=True)
    if config:
        merge.put(_given_by(_flatten(config, "CONFIG"), "CONFIG", "CONFIG"))
    if file_name:
        merge.put(_given_by(_read_file(Path(file_name).expanduser()), file_name, f"file {file_name}"))
    from_environment, unknown = _read_environment(environment, {**VARIABLES, **(variables or {})})
    merge.put(from_environment)
    merge.put(Given(name, value, _flag(name), f"flag {_flag(name)}") for name, value in (flags or {}).items())
    merge.finish()
    settings = _build(merge.values)
    _check_together(settings, merge.origins)
    warnings = (*unknown, *merge.warnings.values(), *advice(settings))
    return LoadedSettings(settings, merge.origins, warnings, tuple(merge.notes.values()), merge.used)


def _given_by(layer: Mapping[str, object], place: str, origin: str) -> Iterator[Given]:
    return (Given(name, value, f"{place}: {name}", origin) for name, value in layer.items())


def _flag(name: str) -> str:
    spec = setting_specs().get(name)
    return spec.flag if spec is not None else f"--{name}"


def preset_names() -> list[str]:
    """The presets that are there."""
    names = (entry.name for entry in resources.files("light_tts.presets").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def preset_text(name: str) -> str:
    """The TOML of a preset, with the reasons as comments. Raises ConfigError for a name that is none."""
    name = PRESET_ALIASES.get(name, name)
    if name not in preset_names():
        raise ConfigError(
            f"--preset: '{name}' is not a preset; use one of {', '.join(preset_names())}"
            f"{did_you_mean(name, preset_names())}"
        )
    return (resources.files("light_tts.presets") / f"{name}.toml").read_text("utf-8")


def _read_preset(name: str) -> dict[str, object]:
    return _flatten(tomllib.loads(preset_text(name)), f"preset {name}")


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


def _flatten(data: Mapping[Any, Any], source: str) -> dict[str, object]:
    """Tables named like a branch of `Settings` are opened; everything else must be a setting or an old name."""
    branches = {item.name for item in fields(Settings)}
    flat: dict[str, object] = {}

    def add(key: object, value: object, branch: str | None) -> None:
        name = str(key).replace("-", "_")
        spec = setting_specs().get(name)
        is_known = is_old_name(name) if branch is None else False
        if not is_known and (spec is None or (branch is not None and spec.branch != branch)):
            known = [known.name for known in setting_specs().values() if branch in (None, known.branch)]
            known += OLD_NAMES if branch is None else []
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


def _read_environment(
    environment: Mapping[str, str], variables: Mapping[str, str]
) -> tuple[list[Given], tuple[str, ...]]:
    """What the environment gives, and a warning for each variable of ours that is no setting.

    variables:  variables of other programs -> the name each stands for.
    """
    names = {spec.environment_name: name for name, spec in setting_specs().items()} | dict(variables)
    found: list[Given] = []
    warnings = []
    for variable, value in environment.items():
        if variable in (_CONFIG_VARIABLE, _PRESET_VARIABLE):
            continue
        if variable in names:
            if value:
                found.append(Given(names[variable], value, variable, f"environment {variable}"))
        elif variable.startswith(ENVIRONMENT_PREFIX):
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
            hint = did_you_mean(name, list(setting_specs()))
            warnings.append(f"environment variable {variable} is not a setting and has no effect{hint}")
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
        ("acoustic", "token_hop_len", "max_hop_tokens"),
        ("frontend", "min_prompt_s", "max_prompt_s"),
    ):
        low, high = (getattr(getattr(settings, branch), name) for name in (lower, upper))
        if low is not None and low > high:
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
    _check_door(settings, origins)


def _check_door(settings: Settings, origins: Mapping[str, str]) -> None:
    server = settings.server
    for pair in server.voice_aliases:
        name, equals, voice = pair.partition("=")
        if not (name and equals and voice):
            raise ConfigError(
                f"voice_aliases ({origins['voice_aliases']}): {pair!r} is no alias; use NAME=VOICE (nova=en_female)"
            )
    if not (server.api_key or server.admin_key):
        for limit in ("key_max_concurrent", "key_requests_per_minute"):
            if getattr(settings.engine, limit):
                raise ConfigError(f"{limit} (from {origins[limit]}) limits each API key; set api_key as well")
