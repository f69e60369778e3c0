"""What a setting may be: read once from the dataclasses of `settings.py`, used by every way to give a value.

A `SettingSpec` turns a word (or a value of a configuration file) into the typed value, or says in one sentence what is
wrong, what is allowed and which word was probably meant.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from light_tts.errors import ConfigError
from light_tts.settings import Settings

TRUE_WORDS = frozenset({"true", "1", "yes", "on"})
FALSE_WORDS = frozenset({"false", "0", "no", "off"})
_NONE_WORDS = frozenset({"", "none", "null"})


@dataclass(frozen=True)
class SettingSpec:
    """One setting: where it lives in the tree, its type and its range.

    base:      the type of one value: bool, int, float, str or Path.
    choices:   the allowed words, empty when any value of the type will do.
    optional:  None is allowed ("none" on the command line).
    many:      a list of values; commas separate them where only one word can be given.
    aliases:   other words for the choices.
    """

    branch: str
    name: str
    base: type
    choices: tuple[str, ...]
    optional: bool
    many: bool
    default: Any
    help: str
    ge: float | None = None
    le: float | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def flag(self) -> str:
        """The command line's name of it: `--max-running`."""
        return "--" + self.name.replace("_", "-")

    @property
    def environment_name(self) -> str:
        """The environment's name of it: `LIGHT_TTS_MAX_RUNNING`."""
        return "LIGHT_TTS_" + self.name.upper()

    @property
    def allowed(self) -> str:
        """The allowed values in words: "a whole number from 1 to 65535"."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.base is bool:
            return "true or false (also 1/0, yes/no, on/off)"
        noun = {int: "a whole number", float: "a number", Path: "a path"}.get(self.base, "text")
        if self.ge is not None and self.le is not None:
            return f"{noun} from {self.ge:g} to {self.le:.15g}"
        if self.ge is not None:
            return f"{noun}, at least {self.ge:g}"
        return noun

    def parse(self, value: object, source: str) -> Any:
        """The typed value of a word, or of a value as TOML, YAML and JSON give it.

        source: what gave the value (`--port`, `LIGHT_TTS_PORT`, `file.toml: port`), for the message.
        Raises ConfigError.
        """
        if self.optional and (value is None or (isinstance(value, str) and value.strip().lower() in _NONE_WORDS)):
            return None
        if not self.many:
            return self._parse_one(value, source)
        items: Sequence[object]
        if isinstance(value, str):
            items = [word.strip() for word in value.split(",") if word.strip()]
        elif isinstance(value, list | tuple):
            items = value
        else:
            raise self._refuse(value, source)
        return tuple(self._parse_one(item, source) for item in items)

    def _parse_one(self, value: object, source: str) -> Any:
        if isinstance(value, Path):
            value = str(value)
        word = value.strip() if isinstance(value, str) else value
        if self.base is bool:
            return self._parse_bool(word, source)
        if self.choices:
            if isinstance(word, str):
                meant = self.aliases.get(word.lower(), word.lower())
                if meant in self.choices:
                    return meant
            raise self._refuse(value, source)
        if self.base in (int, float):
            return self._parse_number(word, source)
        if not isinstance(word, str) or not word:
            raise self._refuse(value, source)
        if self.base is not Path:
            return word
        try:
            return Path(word).expanduser()
        except RuntimeError:  # "~name" of nobody
            raise self._refuse(value, source) from None

    def _parse_bool(self, word: object, source: str) -> bool:
        text = str(word).lower()
        if isinstance(word, bool | int | str) and text in TRUE_WORDS | FALSE_WORDS:
            return text in TRUE_WORDS
        raise self._refuse(word, source)

    def _parse_number(self, word: object, source: str) -> int | float:
        if isinstance(word, bool) or not isinstance(word, str | int | float):
            raise self._refuse(word, source)
        if self.base is int and isinstance(word, float):
            raise self._refuse(word, source)
        try:
            number: int | float = self.base(word)
        except (ValueError, OverflowError):
            raise self._refuse(word, source) from None
        if not math.isfinite(number):
            raise self._refuse(word, source)
        if (self.ge is not None and number < self.ge) or (self.le is not None and number > self.le):
            raise self._refuse(word, source)
        return number

    def _refuse(self, value: object, source: str) -> ConfigError:
        shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
        words = self.choices or (("true", "false", "yes", "no", "on", "off") if self.base is bool else ())
        return ConfigError(f"{source}: {shown} is not allowed; use {self.allowed}{did_you_mean(str(value), words)}")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The end of a message that names the nearest known word: "; did you mean 'cuda'?", or nothing."""
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


@cache
def setting_specs() -> dict[str, SettingSpec]:
    """Every setting of the tree by its name, in the order of the tree."""
    specs: dict[str, SettingSpec] = {}
    for branch, branch_type in get_type_hints(Settings).items():
        hints = get_type_hints(branch_type)
        for item in fields(branch_type):
            if item.name in specs:
                raise TypeError(f"two settings are called {item.name}: in {specs[item.name].branch} and {branch}")
            base, choices, optional, many = _read_type(hints[item.name])
            meta = item.metadata
            specs[item.name] = SettingSpec(
                branch, item.name, base, choices, optional, many, item.default, meta["help"], meta["ge"], meta["le"],
                meta["aliases"],
            )  # fmt: skip
    return specs


def _read_type(hint: Any) -> tuple[type, tuple[str, ...], bool, bool]:
    """A field's annotation as (base type, choices, optional, many)."""
    origin = get_origin(hint)
    if origin is Literal:
        return str, get_args(hint), False, False
    if origin in (types.UnionType, Union):
        (inner,) = (part for part in get_args(hint) if part is not type(None))
        base, choices, _, many = _read_type(inner)
        return base, choices, True, many
    if origin is tuple:
        base, choices, _, _ = _read_type(get_args(hint)[0])
        return base, choices, False, True
    if hint not in (bool, int, float, str, Path):
        raise TypeError(f"settings cannot be of type {hint!r}")
    return hint, (), False, False
