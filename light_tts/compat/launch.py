"""Start the server as a program of another name would: its flags, its variables, its defaults."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from light_tts.cli import run_command
from light_tts.commands import serve
from light_tts.commands.arguments import CommandParser, flag_values, with_dashes
from light_tts.compat.programs import Program
from light_tts.errors import ConfigError
from light_tts.settings_loader import LoadedSettings, load_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

_OWN = "own_"
APP_LOAD_ERROR = 4  # tells gunicorn not to try again


def launch(
    program: Program,
    words: Sequence[str] | None = None,
    *,
    config: Mapping[str, object] | None = None,
    is_announced: bool = False,
) -> int:
    """Run the program; the value is its exit status, 2 with one sentence for a mistake of the user.

    words:         the command line, default that of the process.
    config:        a mapping of settings and old names that belongs to the program.
    is_announced:  show the configuration on standard error first.
    """
    parsed = _parser(program).parse_args(with_dashes(list(sys.argv[1:] if words is None else words)))

    def command() -> int:
        loaded = _load(program, parsed, config)
        if is_announced:
            print(configuration_block(program, loaded), file=sys.stderr)
        return serve.serve(parsed, loaded)

    return run_command(command)


def build_app(program: Program, config: Mapping[str, object]) -> FastAPI:
    """The ASGI application of a program that another process manager runs.

    A mistake in the settings ends the process, with one sentence and the status that keeps gunicorn from trying again.
    """
    try:
        loaded = load_settings(
            base=program.defaults, default_preset=program.preset, config=config, variables=program.variables
        )
        _warn(program, loaded)
    except ConfigError as error:
        print(f"{program.name}: {error}", file=sys.stderr)
        sys.exit(APP_LOAD_ERROR)
    from light_tts.server.asgi import shared_app

    return shared_app(loaded.settings, notes=loaded.start_lines())


def configuration_block(program: Program, loaded: LoadedSettings) -> str:
    """What is not a default of the server, and what old flags were given, one a line."""
    rows: list[tuple[str, object, str]] = []
    for branch in loaded.describe().values():
        for name, entry in branch.items():
            if entry["origin"] != "default" or name in program.defaults:
                rows.append((name, entry["value"], entry["origin"]))
    rows += [(name, used.value, used.says) for name, used in loaded.used.items()]
    width = max(len(name) for name, *_ in rows)
    lines = [f"  {name:<{width}}  {value}  ({why})" for name, value, why in rows]
    return "\n".join([f"{program.name}: configuration", *lines])


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
    _warn(program, loaded)
    return loaded


def _warn(program: Program, loaded: LoadedSettings) -> None:
    for warning in loaded.warnings:
        print(f"{program.name}: warning: {warning}", file=sys.stderr)
