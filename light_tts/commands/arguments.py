"""The command line made from the settings: one flag for each, with its help, default and range."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from light_tts.compat.flags import OLD_NAMES, flag_names
from light_tts.settings_loader import LoadedSettings, load_settings
from light_tts.settings_spec import SettingSpec, did_you_mean, setting_specs

_SETTING = "setting_"


class CommandParser(argparse.ArgumentParser):
    """Like argparse's, but: no abbreviations, errors are one line, an unknown flag is told the nearest known one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """One line on stderr and exit status 2."""
        print(f"{self.prog}: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse; anything unknown is an error here, where the known flags are known."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self._refuse(unknown[0])
        return found, []

    def _refuse(self, word: str) -> NoReturn:
        flag = word.split("=")[0]
        if not flag.startswith("-"):
            self.error(f"unexpected argument '{word}'; put a text of several words in quotes")
        known = [option for option in self._option_string_actions if option.startswith("--")]
        self.error(f"unknown flag {flag}{did_you_mean(flag, known) or f'; {self.prog} --help lists the flags'}")


def with_dashes(words: Sequence[str]) -> list[str]:
    """The same words with `--max_running` spelt `--max-running`; what follows a bare `--` is text."""
    end = words.index("--") if "--" in words else len(words)
    return [_with_dashes(word) if index < end else word for index, word in enumerate(words)]


def _with_dashes(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def add_setting_flags(parser: argparse.ArgumentParser, names: Iterable[str], title: str | None = None) -> None:
    """A flag for each of these settings, under a heading per branch of the tree (or all under `title`)."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name in names:
        spec = setting_specs()[name]
        heading = title or f"{spec.branch} settings"
        group = groups.get(heading) or groups.setdefault(heading, parser.add_argument_group(heading))
        _add_flag(group, spec)


def add_old_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of other servers (`compat/flags.py`) that are not spelt like one that is there; not listed in help."""
    for name in flag_names():
        spec = OLD_NAMES[name].spec
        option = "--" + name.replace("_", "-")
        if option in parser._option_string_actions:
            continue
        common: dict[str, Any] = {"dest": _SETTING + name, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
        if spec.base is bool:
            parser.add_argument(option, nargs="?", const="true", **common)
            parser.add_argument(option.replace("--", "--no-", 1), action="store_const", const="false", **common)
        else:
            parser.add_argument(option, nargs="+" if spec.many else None, **common)


def _add_flag(group: argparse._ArgumentGroup, spec: SettingSpec) -> None:
    # Values stay words here: `SettingSpec.parse` judges them, whichever way they came.
    common: dict[str, Any] = {"dest": _SETTING + spec.name, "default": argparse.SUPPRESS}
    explanation = spec.help.replace("%", "%%")
    if spec.base is bool:
        state = "on" if spec.default else "off"
        group.add_argument(
            spec.flag, nargs="?", const="true", metavar="true|false", help=f"{explanation} (default: {state})", **common
        )
        group.add_argument(
            "--no-" + spec.flag.removeprefix("--"),
            action="store_const",
            const="false",
            help=argparse.SUPPRESS,
            **common,
        )
    else:
        metavar = "|".join(spec.choices) or {int: "N", float: "X", Path: "PATH"}.get(spec.base, "TEXT")
        shown = "none" if spec.default in (None, ()) else spec.default
        note = "" if "default:" in explanation else f" (default: {shown})"
        group.add_argument(
            spec.flag, nargs="+" if spec.many else None, metavar=metavar, help=explanation + note, **common
        )


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """`--preset` and `--config`: settings in bulk."""
    group = parser.add_argument_group("settings in bulk (default < preset < config file < environment < flag)")
    group.add_argument("--preset", metavar="NAME", help="settings for a kind of machine, or for a purpose")
    group.add_argument("--config", metavar="FILE", type=Path, help="settings from a .toml, .yaml or .json file")


def flag_values(arguments: argparse.Namespace) -> dict[str, object]:
    """Name of a setting, or old name -> the word that was given for it."""
    found: dict[str, object] = {}
    for key, value in vars(arguments).items():
        if key.startswith(_SETTING):
            found[key.removeprefix(_SETTING)] = ",".join(value) if isinstance(value, list) else value
    return found


def settings_from(arguments: argparse.Namespace, base: dict[str, object] | None = None) -> LoadedSettings:
    """The settings of a parsed command line; warnings go to stderr. Raises ConfigError."""
    loaded = load_settings(flag_values(arguments), base=base, preset=arguments.preset, config_file=arguments.config)
    for warning in loaded.warnings:
        print(f"light-tts: warning: {warning}", file=sys.stderr)
    return loaded
