"""An old name of a setting: how its value is read, and what it asks of the settings of today."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from light_tts.settings_spec import SettingSpec, setting_specs

Effect = Literal["act", "map", "no-op"]


@dataclass(frozen=True)
class Outcome:
    """What one old name asks for.

    values:     setting -> value.
    gives_way:  where the same source gives one of these settings by its own name, that one holds.
    implied:    setting -> value, where nothing but a default or a preset decides it.
    at_most:    setting -> upper bound, whoever decides it.
    notes:      sentences for the log of the start, without the name.
    warnings:   the same, for what the user will want to change.
    """

    values: Mapping[str, object] = field(default_factory=dict)
    gives_way: bool = False
    implied: Mapping[str, object] = field(default_factory=dict)
    at_most: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class OldName:
    """One row of the table.

    name:      as it is written in launch lines, with underscores.
    effect:    act: changes behaviour under its own meaning; map: asks for the nearest setting there is; no-op: accepted
               without effect.
    spec:      type and range of its value.
    says:      what happens here, one clause without a full stop, for the page and for the log.
    outcome:   (value, source) to what it asks for; source names flag, variable or file for messages.
               Raises ConfigError.
    tidy:      brings a parsed value into one form.
    """

    name: str
    effect: Effect
    spec: SettingSpec
    says: str
    outcome: Callable[[Any, str], Outcome]
    tidy: Callable[[Any], Any] = lambda value: value

    def read(self, value: object, source: str) -> tuple[Any, Outcome]:
        """The typed value of a word or of a value in a file, and what it asks for. Raises ConfigError."""
        parsed = self.tidy(self.spec.parse(value, source))
        return parsed, self.outcome(parsed, source)


def value_spec(
    name: str,
    base: type,
    *,
    choices: tuple[str, ...] = (),
    aliases: Mapping[str, str] | None = None,
    many: bool = False,
    ge: float | None = None,
    le: float | None = None,
) -> SettingSpec:
    """How the value of an old name is read that has no setting of its own."""
    return SettingSpec("compat", name, base, choices, False, many, None, "", ge, le, aliases or {})


def renamed(name: str, setting: str, *, effect: Effect = "act", says: str = "") -> OldName:
    """The same thing under another name, with the setting's own type and range."""
    return OldName(
        name, effect, setting_specs()[setting], says or f"is {setting}", lambda value, _: Outcome({setting: value})
    )


def without_effect(name: str, base: type, why: str, **limits: Any) -> OldName:
    """Accepted, checked, and said to have no effect."""
    return OldName(name, "no-op", value_spec(name, base, **limits), why, lambda *_: Outcome(notes=(no_effect(why),)))


def no_effect(why: str) -> str:
    """The sentence for the log."""
    return f"has no effect: {why}"
