"""`light-tts serve`: the server."""

from __future__ import annotations

import argparse
import json

from light_tts.commands.arguments import add_setting_flags, add_source_flags, settings_from
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
        "LIGHT_TTS_MAX_RUNNING.",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print all settings in force and where each came from, and stop"
    )
    add_source_flags(parser)
    add_setting_flags(parser, setting_specs())
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until the process is told to stop."""
    loaded = settings_from(arguments)
    if arguments.print_config:
        print(json.dumps(loaded.describe(), indent=2, ensure_ascii=False))
        return 0
    from light_tts.server import api_server

    return int(api_server.run(loaded.settings) or 0)
