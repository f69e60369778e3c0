"""`light-tts serve`: the server. Programs of other names (`compat/programs.py`) are this with other defaults."""

from __future__ import annotations

import argparse
import json

from light_tts.commands.arguments import add_old_flags, add_setting_flags, add_source_flags, settings_from
from light_tts.settings_loader import LoadedSettings
from light_tts.settings_spec import setting_specs


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the verb: every setting is a flag."""
    parser = verbs.add_parser(
        "serve",
        usage="light-tts serve [--preset NAME] [--config FILE] [--SETTING VALUE ...] [--print-config]",
        help="serve speech over HTTP and WebSocket",
        description="Serve speech over HTTP and WebSocket.",
        epilog="A flag may be written with - or _. A boolean flag stands alone, or takes true or false as the "
        "following word; --no-FLAG is false. Each setting is also an environment variable: --max-running is "
        "LIGHT_TTS_MAX_RUNNING. Launch lines of LightTTS and CosyVoice servers work as they are written: "
        "docs/from-lighttts.md says what each of their flags does here.",
    )
    add_flags(parser)
    parser.set_defaults(run=run)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Everything a server can be told."""
    parser.add_argument(
        "--print-config", action="store_true", help="print all settings in force and where each came from, and stop"
    )
    parser.add_argument(
        "--collect-env", action="store_true", help="print machine, versions and settings for a report, and stop"
    )
    add_source_flags(parser)
    add_setting_flags(parser, setting_specs())
    add_old_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until the process is told to stop."""
    return serve(arguments, settings_from(arguments))


def serve(arguments: argparse.Namespace, loaded: LoadedSettings) -> int:
    """Do what the flags ask for with these settings."""
    if arguments.print_config or arguments.collect_env:
        report = describe(loaded)
        if arguments.collect_env:
            from light_tts.machine_report import machine_report

            report = {**machine_report(), "settings": report}
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return 0
    from light_tts.server import api_server

    return int(api_server.run(loaded.settings, notes=loaded.start_lines()) or 0)


def describe(loaded: LoadedSettings) -> dict[str, object]:
    """Branch -> setting -> {"value", "origin"}, and under "old_names" the names of other servers that were given."""
    old_names = loaded.describe_old_names()
    return {**loaded.describe(), **({"old_names": old_names} if old_names else {})}
