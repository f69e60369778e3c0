"""Several sources of settings, one after another, become one set of values; each keeps where it came from.

Names of other servers (`compat/flags.py`) are translated source by source, so that a later source wins whichever name
it uses. Two names of one source that ask for different values of a setting are a mistake.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from light_tts.compat.flags import OLD_NAMES, is_old_name, read_old_name
from light_tts.compat.old_names import Outcome
from light_tts.errors import ConfigError
from light_tts.settings_spec import setting_specs


@dataclass(frozen=True)
class Given:
    """One value as a source gives it.

    name:    of a setting, or an old name.
    source:  what gave it, for messages: `--port`, `LIGHT_TTS_PORT`, `file.toml: port`.
    origin:  what gave it, for descriptions: "flag --port", "file file.toml".
    """

    name: str
    value: object
    source: str
    origin: str


@dataclass(frozen=True)
class UsedOldName:
    """An old name that was given: its typed value, where, and what it does here."""

    value: Any
    origin: str
    effect: str
    says: str


@dataclass(frozen=True)
class _Asked:
    value: Any
    source: str
    origin: str


@dataclass
class Merge:
    """Takes sources from the weakest to the strongest, then `finish`."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=lambda: dict.fromkeys(setting_specs(), "default"))
    used: dict[str, UsedOldName] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)
    _decided: set[str] = field(default_factory=set)
    _implied: dict[str, _Asked] = field(default_factory=dict)
    _bounds: list[tuple[str, int, str]] = field(default_factory=list)

    def put(self, given: Iterable[Given], *, is_default: bool = False) -> None:
        """Take one source. is_default: it decides nothing, an implied value of a stronger source replaces its own."""
        strong: dict[str, _Asked] = {}
        weak: dict[str, _Asked] = {}
        for item in given:
            if is_old_name(item.name):
                if item.value is not None:
                    self._translate(item, strong, weak, is_default=is_default)
            else:
                value = setting_specs()[item.name].parse(item.value, item.source)
                _ask(strong, item.name, _Asked(value, item.source, item.origin))
        for name, asked in (weak | strong).items():
            self._set(name, asked)
            if not is_default:
                self._decided.add(name)

    def finish(self) -> None:
        """Fill in what was only implied, and lower what exceeds a bound."""
        for name, asked in self._implied.items():
            if name not in self._decided:
                self._set(name, asked)
        for name, most, origin in self._bounds:
            if self.values.get(name, setting_specs()[name].default) > most:
                self.values[name], self.origins[name] = most, origin

    def _set(self, name: str, asked: _Asked) -> None:
        self.values[name], self.origins[name] = asked.value, asked.origin

    def _translate(self, item: Given, strong: dict[str, _Asked], weak: dict[str, _Asked], *, is_default: bool) -> None:
        value, outcome = read_old_name(item.name, item.value, item.source)
        for name, wanted in outcome.values.items():
            parsed = setting_specs()[name].parse(wanted, item.source)
            _ask(weak if outcome.gives_way else strong, name, _Asked(parsed, item.source, item.origin))
        for name, wanted in outcome.implied.items():
            self._implied[name] = _Asked(wanted, item.source, item.origin)
        self._bounds += [(name, most, item.origin) for name, most in outcome.at_most.items()]
        if not is_default:
            self._note(item, value, outcome)

    def _note(self, item: Given, value: Any, outcome: Outcome) -> None:
        row = OLD_NAMES.get(item.name)
        effect, says = (row.effect, row.says) if row is not None else ("act", "the settings of CUDA graphs")
        self.used[item.name] = UsedOldName(value, item.origin, effect, says)
        self.notes.pop(item.name, None)
        self.warnings.pop(item.name, None)
        if outcome.notes:
            self.notes[item.name] = "; ".join(f"{item.source} {note}" for note in outcome.notes)
        if outcome.warnings:
            self.warnings[item.name] = "; ".join(f"{item.source} {warning}" for warning in outcome.warnings)


def _ask(asked: dict[str, _Asked], name: str, new: _Asked) -> None:
    old = asked.setdefault(name, new)
    if old.value != new.value:
        raise ConfigError(
            f"{old.source} asks for {name} {_shown(old.value)} and {new.source} for {_shown(new.value)}; "
            "give one of them"
        )


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
