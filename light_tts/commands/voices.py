"""`light-tts voices`: the named voices of this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from light_tts.commands.arguments import add_setting_flags, add_source_flags, settings_from
from light_tts.commands.say import ONE_LISTENER, read_recording

if TYPE_CHECKING:
    from light_tts.frontend.voice_store import VoiceStore


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the verb and its three actions."""
    parser = verbs.add_parser("voices", help="list, add and remove named voices", description="Named voices.")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    listing = actions.add_parser("list", help="name them all", description="Name all voices.")
    listing.set_defaults(act=_list)
    adding = actions.add_parser("add", help="add one from a recording", description="Add a voice from a recording.")
    adding.add_argument("name", metavar="NAME", help="what to call it")
    adding.add_argument("recording", metavar="FILE", type=Path, help="a recording of the voice, 0.5 to 30 s")
    adding.add_argument("--prompt-text", metavar="TEXT", help="what is said in the recording; brings the voice closer")
    adding.add_argument("--language", metavar="CODE", help="language of the voice: zh, en, ...")
    adding.set_defaults(act=_add)
    removing = actions.add_parser("remove", help="remove an added one", description="Remove an added voice.")
    removing.add_argument("name", metavar="NAME", help="which one")
    removing.set_defaults(act=_remove)
    for action in (listing, adding, removing):
        add_source_flags(action)
        add_setting_flags(action, ("model_dir", "voices_dir"), title="where")
        action.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do the action."""
    settings = settings_from(arguments, {**ONE_LISTENER, "device": "cpu"}).settings
    from light_tts.engine import TTSEngine

    with TTSEngine.load(settings) as engine:
        arguments.act(engine.voices, arguments)
    return 0


def _list(voices: VoiceStore, arguments: argparse.Namespace) -> None:
    for name in voices.names():
        print(name)


def _add(voices: VoiceStore, arguments: argparse.Namespace) -> None:
    data = read_recording(arguments.recording)
    voices.add(arguments.name, data, arguments.prompt_text, arguments.language)
    print(f"added {arguments.name}")


def _remove(voices: VoiceStore, arguments: argparse.Namespace) -> None:
    voices.remove(arguments.name)
    print(f"removed {arguments.name}")
