"""`light-tts presets`: which ready-made settings there are, and why each value is what it is."""

from __future__ import annotations

import argparse

from light_tts.settings_loader import preset_names, preset_text


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "presets",
        help="list ready-made settings, or show one with its reasons",
        description="List ready-made settings for machines and purposes, or show one with the reason of each value.",
        epilog="light-tts serve --preset NAME uses one; flags, variables and files go above it.",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="show this one")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the list, or the one."""
    if arguments.name is not None:
        print(preset_text(arguments.name).rstrip())
        return 0
    width = max(map(len, preset_names()))
    for name in preset_names():
        print(f"{name:<{width}}  {summary(name)}")
    return 0


def summary(name: str) -> str:
    """The first line of a preset: for which machine, for which purpose."""
    return preset_text(name).splitlines()[0].removeprefix("# ")
