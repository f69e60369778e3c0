"""Writes the tables of docs/from-lighttts.md from the code: flags, words, variables, programs, presets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from light_tts.commands.presets import summary
from light_tts.compat.environment import VARIABLES
from light_tts.compat.flags import GROUPS, OLD_NAMES, SAME_NAMES
from light_tts.compat.modes import WORDS
from light_tts.compat.programs import API_SERVER, RUN_A10_OPTIMIZED, TTS_API_SERVER, WSGI_WRAPPER
from light_tts.settings_loader import preset_names
from light_tts.settings_spec import SettingSpec, setting_specs

TARGET = Path(__file__).resolve().parent.parent / "docs" / "from-lighttts.md"
PROGRAMS = (API_SERVER, TTS_API_SERVER, RUN_A10_OPTIMIZED, WSGI_WRAPPER)
MARK = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def render(page: str) -> str:
    """The page with every table made anew."""
    return MARK.sub(lambda found: found[1] + "\n" + "\n".join(TABLES[found[2]]()) + "\n\n" + found[3], page)


def _flags() -> Iterator[str]:
    for title, rows in GROUPS.items():
        yield from ("", f"**{title}**", "", "| old name | values | effect | here |", "|---|---|---|---|")
        for row in rows:
            yield f"| `{row.name}` | {_values(row.spec)} | {row.effect} | {_code(row.says)} |"


def _same() -> Iterator[str]:
    yield from ("| flag or key | values | what it is |", "|---|---|---|")
    for name in SAME_NAMES:
        spec = setting_specs()[name]
        yield f"| `{name}` | {_values(spec)} | {_cell(spec.help)} |"


def _modes() -> Iterator[str]:
    yield from ("| word | here |", "|---|---|")
    meaning = {"kernel": "no effect, one kernel serves all", "unsupported": "refused: not supported"}
    for word, (kind, value) in WORDS.items():
        yield f"| `{word}` | {meaning.get(kind) or f'`{kind}` {value}'} |"


def _variables() -> Iterator[str]:
    yield from ("| variable | here |", "|---|---|")
    for variable, name in VARIABLES.items():
        yield f"| `{variable}` | {_code(OLD_NAMES[name].says) if name in OLD_NAMES else f'`{name}`'} |"


def _programs() -> Iterator[str]:
    yield from ("| program | own defaults | own flags | own variables |", "|---|---|---|---|")
    for program in PROGRAMS:
        defaults = [f"`{name}` {_value(value)}" for name, value in program.defaults.items()]
        defaults += [f"preset `{program.preset}`"] if program.preset else []
        flags = [f"`--{flag.name}` (`{flag.means}`)" for flag in program.flags]
        yield f"| `{program.name}` | {', '.join(defaults)} | {', '.join(flags)} | {_list(program.variables)} |"


def _presets() -> Iterator[str]:
    yield from ("| preset | for |", "|---|---|")
    yield from (f"| `{name}` | {_cell(summary(name))} |" for name in preset_names())


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "flags": _flags,
    "same": _same,
    "modes": _modes,
    "variables": _variables,
    "programs": _programs,
    "presets": _presets,
}


def _values(spec: SettingSpec) -> str:
    return "true or false" if spec.base is bool else _cell(spec.allowed)


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _list(names: object) -> str:
    return ", ".join(f"`{name}`" for name in names)  # type: ignore[attr-defined]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    """Names of settings and flags in code type."""
    known = sorted({*setting_specs(), *OLD_NAMES}, key=len, reverse=True)
    pattern = r"\b(" + "|".join(name for name in known if "_" in name) + r")\b"
    return re.sub(pattern, r"`\1`", _cell(text))


if __name__ == "__main__":
    TARGET.write_text(render(TARGET.read_text("utf-8")), "utf-8")
    print(f"wrote {TARGET}")
