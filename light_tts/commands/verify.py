"""`light-tts verify`: are our models right, and is a model directory whole?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from light_tts.errors import InvalidRequest

if TYPE_CHECKING:
    from light_tts.verify.runner import Report


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "verify",
        help="check the models against golden data, or a model directory",
        description="Check our models against golden data of the reference, check a model directory, or make one with "
        "random weights for tests and benchmarks. Exit status 1 when anything misses or was not checked.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--golden", metavar="DIR", type=Path, help="golden data: one directory, or one holding several")
    what.add_argument(
        "--model-dir", metavar="DIR", type=Path, help="a model directory: files, keys, shapes, finiteness"
    )
    what.add_argument(
        "--make-random", metavar="DIR", type=Path, help="write a full-size model with random weights here"
    )
    parser.add_argument(
        "--tokenizer-dir",
        metavar="DIR",
        type=Path,
        help="with --golden: the published vocabulary, for cases that need it",
    )
    parser.add_argument(
        "--family", metavar="NAME", help="with --make-random: which generation of models; a wrong name lists them"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="with --make-random (default: 0)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="with --make-random: of the weights on disk (default: float32, as published)",
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do one of the three."""
    if arguments.make_random is not None:
        return _make_random(arguments)
    if arguments.family is not None:
        raise InvalidRequest("--family belongs to --make-random", "family")
    if arguments.tokenizer_dir is not None and arguments.golden is None:
        raise InvalidRequest("--tokenizer-dir belongs to --golden", "tokenizer_dir")
    report = _report(arguments)
    if arguments.json:
        print(json.dumps(report.to_json(), ensure_ascii=False, indent=1))
    return 0 if report.ok else 1


def _report(arguments: argparse.Namespace) -> Report:
    """Check, printing each section as it is done unless JSON is wanted."""
    from functools import partial

    from rich.console import Console

    from light_tts.verify.layouts import VerifyOptions
    from light_tts.verify.runner import verify_golden, verify_model_dir
    from light_tts.verify.table import print_section, print_summary

    console = None if arguments.json else Console()
    show = partial(print_section, console=console) if console else None
    if arguments.golden is not None:
        report = verify_golden(arguments.golden, VerifyOptions(arguments.tokenizer_dir), on_section=show)
    else:
        report = verify_model_dir(arguments.model_dir, on_section=show)
    if console:
        print_summary(report, console)
    return report


def _make_random(arguments: argparse.Namespace) -> int:
    from light_tts.models.random_weights import make_random

    if arguments.family is None:
        raise InvalidRequest("--make-random wants --family NAME too", "family")
    make_random(arguments.make_random, arguments.family, seed=arguments.seed, dtype=arguments.dtype, progress=print)
    print(f"{arguments.make_random}: {arguments.family} of the published sizes with random weights (it does not speak)")
    return 0
