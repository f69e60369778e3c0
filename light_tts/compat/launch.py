"""Start the server as a program of another name would: its flags, its variables, its defaults."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from light_tts.cli import run_command
from light_tts.commands import serve
from light_tts.commands.arguments import CommandParser, flag_values, with_dashes
from light_tts.compat.programs import Program
from light_tts.settings_loader import LoadedSettings, load_settings

_OWN = "own_"


def launch(
    program: Program,
    words: Sequence[str] | None = None,
    *,
    config: Mapping[str, object] | None = None,
) -> int:
    """Run the program; the value is its exit status, 2 with one sentence for a mistake of the user.

    words:   the command line, default that of the process.
    config:  a mapping of settings and old names that belongs to the program.
    """
    parsed = _parser(program).parse_args(with_dashes(list(sys.argv[1:] if words is None else words)))
    return run_command(lambda: serve.serve(parsed, _load(program, parsed, config)))


def load_for(program: Program, config: Mapping[str, object] | None = None) -> LoadedSettings:
    """The settings of a program that has no command line of its own. Raises ConfigError."""
    return load_settings(
        base=program.defaults, default_preset=program.preset, config=config, variables=program.variables
    )


def _parser(program: Program) -> CommandParser:
    parser = CommandParser(
        prog=program.name,
        usage=f"{program.name} [--FLAG VALUE ...] [--print_config]",
        description=program.description,
        epilog="docs/from-lighttts.md lists the flags of other servers that are understood.",
    )
    serve.add_flags(parser)
    for flag in program.flags:
        shown = "|".join(flag.choices) or "VALUE"
        parser.add_argument(
            f"--{flag.name}", dest=_OWN + flag.name, default=argparse.SUPPRESS, metavar=shown, help=f"is --{flag.means}"
        )
    return parser


def _load(program: Program, parsed: argparse.Namespace, config: Mapping[str, object] | None) -> LoadedSettings:
    flags = flag_values(parsed)
    for flag in program.flags:
        if _OWN + flag.name in parsed:
            flags[flag.means] = flag.parse(getattr(parsed, _OWN + flag.name))
    loaded = load_settings(
        flags,
        base=program.defaults,
        preset=parsed.preset,
        default_preset=program.preset,
        config=config,
        config_file=parsed.config,
        variables=program.variables,
    )
    for warning in loaded.warnings:
        print(f"{program.name}: warning: {warning}", file=sys.stderr)
    return loaded
