"""The flags that every kind of load has: arrivals, texts, voice, output. Imports nothing that takes time."""

from __future__ import annotations

import argparse
from pathlib import Path

DEFAULT_REQUESTS = 50


def add_load_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that every kind of load has."""
    _add_arrival_flags(parser)
    _add_speech_flags(parser)
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", type=Path, metavar="FILE", help="everything that was measured, as JSON")
    output.add_argument("--plot", type=Path, metavar="FILE.svg", help="the distributions, as a picture")


def _add_arrival_flags(parser: argparse.ArgumentParser) -> None:
    load = parser.add_argument_group("load")
    load.add_argument(
        "--mode",
        choices=("closed", "open", "listeners"),
        default="closed",
        help="closed: each worker asks again when its answer has ended; open: requests arrive at random moments, "
        "whatever became of the earlier ones; listeners: each asks again when its answer has been played, as people do "
        "who hear one after the other (default: %(default)s)",
    )
    load.add_argument(
        "--workers", type=int, nargs="+", metavar="N", help="of a closed loop, or listeners (1); several in turn"
    )
    load.add_argument(
        "--rate",
        type=float,
        nargs="+",
        metavar="R",
        help="open loop: requests per second (default: 1); several in turn",
    )
    load.add_argument(
        "--requests", type=int, metavar="N", help=f"of each level (default: {DEFAULT_REQUESTS} without --duration-s)"
    )
    load.add_argument("--duration-s", type=float, metavar="S", help="ask nothing new after so many seconds")
    load.add_argument(
        "--warm-up", type=int, default=2, metavar="N", help="requests before each level, not counted (%(default)s)"
    )
    load.add_argument("--timeout-s", type=float, default=120.0, metavar="S", help="give a request up (%(default)s)")
    load.add_argument("--seed", type=int, default=0, help="of the arrivals and of the first request (%(default)s)")


def _add_speech_flags(parser: argparse.ArgumentParser) -> None:
    speech = parser.add_argument_group("speech")
    speech.add_argument(
        "--stream", action=argparse.BooleanOptionalAction, default=True, help="audio while it is made, or when complete"
    )
    speech.add_argument("--text-set", choices=("short", "medium"), default="short", help="(default: %(default)s)")
    speech.add_argument("--language", choices=("en", "zh", "both"), default="both", help="(default: %(default)s)")
    speech.add_argument("--texts", type=Path, metavar="FILE", help="own texts instead, one on each line")
    speech.add_argument("--voice", metavar="NAME", help="a registered voice")
    speech.add_argument("--prompt-wav", type=Path, metavar="FILE", help="a recording whose voice to use")
    speech.add_argument("--prompt-text", metavar="TEXT", help="what is said in it")
    speech.add_argument("--model", metavar="NAME", help="which of the server's models or styles")
