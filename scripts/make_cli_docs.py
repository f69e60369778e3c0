"""Write docs/cli.md from the command line's own description: python scripts/make_cli_docs.py"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from light_tts.cli import build_parser
from light_tts.settings_loader import preset_names

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HEADER = """\
# Command line

Made from `light-tts --help` by `scripts/make_cli_docs.py`; a test keeps it current.

Exit status: 0 done; 1 something failed, or `verify` found a miss; 2 a mistake in the call (one sentence on standard
error says what was wrong and what is allowed); 130 interrupted; 141 the reader of the output went away.

## Where settings come from

Later ones win: defaults < `--preset` < `--config` file < environment < flags. `light-tts serve --print-config` prints
every value with its origin. In a flag's name `-` and `_` are the same. A flag without a value is true; `true`, `false`,
`yes`, `no`, `on`, `off`, `1`, `0` may follow it; `--no-FLAG` is false. The environment variable of `--max-running` is
`LIGHT_TTS_MAX_RUNNING`; lists are separated by commas there. `LIGHT_TTS_PRESET` and `LIGHT_TTS_CONFIG` stand for
`--preset` and `--config`. A configuration file holds the same names, flat or in tables:

```toml
port = 8000

[llm]
max_running = 32
```

"""


def render() -> str:
    """The whole page."""
    presets = ", ".join(f"`{name}`" for name in preset_names())
    parts = [f"{HEADER}Presets: {presets}.\n"]
    parts += [_section(parser, depth=2) for parser in _children(build_parser())]
    return "\n".join(parts)


def _section(parser: argparse.ArgumentParser, depth: int) -> str:
    lines = [f"{'#' * depth} {parser.prog}", "", parser.description or "", ""]
    children = list(_children(parser))
    if not children:
        words = [action.metavar for action in parser._actions if not action.option_strings]
        lines += ["```", " ".join([parser.prog, *map(_word, words), "[flags]"]), "```", ""]
    for group in parser._action_groups:
        rows = [_row(parser, action) for action in group._group_actions if action.help is not argparse.SUPPRESS]
        rows = [row for row in rows if row]
        if not rows or children:
            continue
        title = "" if group.title in ("options", "positional arguments") else f"**{group.title}**\n\n"
        lines += [f"{title}| | |", "|---|---|", *rows, ""]
    return "\n".join(lines) + "".join("\n" + _section(child, depth + 1) for child in children)


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    if isinstance(action, argparse._HelpAction):
        return ""
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    name = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{_word(action.metavar)}`"
    if action.option_strings and action.nargs != 0:
        words = "|".join(map(str, action.choices)) if action.choices else action.dest.upper()
        name += f" `{_word(action.metavar or words)}`"
    return f"| {name} | {text} |"


def _word(metavar: object) -> str:
    return (" ".join(metavar) if isinstance(metavar, tuple) else str(metavar)).replace("|", "\\|")


def _children(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


if __name__ == "__main__":
    TARGET.write_text(render(), "utf-8")
    print(f"wrote {TARGET}")
