"""`light-tts bench`: put load on a server (`load`) or on the engine in this process (`engine`) and say how it went;
or `simulate` a machine that is not here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from light_tts.bench.dialects import DIALECTS
from light_tts.bench.flags import add_load_flags
from light_tts.bench.simulate import add_simulate_parser
from light_tts.commands.arguments import add_setting_flags, add_source_flags, settings_from
from light_tts.errors import ConfigError
from light_tts.settings_spec import setting_specs

if TYPE_CHECKING:
    from light_tts.bench.measurement import Measurement
    from light_tts.bench.report import Run

_ENGINE_BRANCHES = ("model", "llm", "acoustic", "frontend", "engine")


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the verb and its kinds."""
    parser = verbs.add_parser(
        "bench",
        help="put load on a server or on the engine, and measure it",
        description="Put load on a server or on the engine, and measure latency, throughput, underruns and failures.",
    )
    kinds = parser.add_subparsers(title="what to load", metavar="KIND", dest="kind", required=True)
    _add_server(kinds)
    _add_engine(kinds)
    add_simulate_parser(kinds)


def _add_server(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = kinds.add_parser(
        "load",
        help="a server, over HTTP",
        description="Ask a running server to speak, as its listeners would: any that speaks the dialect.",
    )
    group = parser.add_argument_group("server")
    group.add_argument("--url", default="http://127.0.0.1:8080", help="where the server is (default: %(default)s)")
    group.add_argument("--dialect", choices=list(DIALECTS), default="lighttts", help="(default: %(default)s)")
    group.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the server's key")
    group.add_argument(
        "--field", metavar="NAME=VALUE", action="append", default=[], help="one more field in every request; repeatable"
    )
    add_load_flags(parser)
    parser.set_defaults(run=run, measure=_measure_server)


def _add_engine(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = kinds.add_parser(
        "engine",
        help="the engine in this process, without a web stack",
        description="Load a model into this process and ask its engine directly: figures without a web stack.",
    )
    add_load_flags(parser)
    add_source_flags(parser)
    add_setting_flags(parser, [name for name, spec in setting_specs().items() if spec.branch in _ENGINE_BRANCHES])
    parser.set_defaults(run=run, measure=_measure_engine)


def run(arguments: argparse.Namespace) -> int:
    """Measure every level and show it. Exit status 1 when no request at all succeeded."""
    from light_tts.bench.machine import describe_machine
    from light_tts.bench.measurement import Measurement
    from light_tts.bench.plot import write_plot
    from light_tts.bench.report import print_table, write_json

    # Before the measurement, not after it: mistakes must not cost its results.
    if arguments.plot is not None and arguments.plot.suffix != ".svg":
        raise ConfigError(f"--plot writes SVG; give it a name that ends in .svg, not '{arguments.plot.name}'.")
    for path in filter(None, (arguments.output, arguments.plot)):
        path.parent.mkdir(parents=True, exist_ok=True)
    measurement = Measurement.from_arguments(arguments)
    circumstances: dict[str, Any] = {
        # It holds no secret: a key is given by the name of its variable.
        "command": shlex.join(["light-tts", *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "speech": measurement.describe(),
    }
    circumstances["target"], runs = asyncio.run(arguments.measure(arguments, measurement))
    print_table(runs)
    if arguments.output is not None:
        write_json(arguments.output, runs, circumstances)
    if arguments.plot is not None:
        write_plot(arguments.plot, runs)
    return 0 if any(run.summary.requests_ok for run in runs) else 1


async def _measure_server(arguments: argparse.Namespace, measurement: Measurement) -> tuple[dict[str, Any], list[Run]]:
    from light_tts.bench.http_target import HttpTarget

    if not arguments.url.startswith(("http://", "https://")):
        raise ConfigError(f"--url must begin with http:// or https://, not '{arguments.url}'.")
    api_key = None
    if arguments.api_key_env is not None:
        api_key = os.environ.get(arguments.api_key_env)
        if not api_key:
            raise ConfigError(f"--api-key-env names {arguments.api_key_env}, which is not set in the environment.")
    target = HttpTarget(arguments.url, DIALECTS[arguments.dialect], measurement.options, api_key)
    async with target:
        return {"url": arguments.url, "dialect": arguments.dialect}, await measurement.run(target)


async def _measure_engine(arguments: argparse.Namespace, measurement: Measurement) -> tuple[dict[str, Any], list[Run]]:
    loaded = settings_from(arguments)

    from light_tts.bench.inproc import EngineTarget
    from light_tts.engine import TTSEngine

    with TTSEngine.load(loaded.settings) as engine:
        runs = await measurement.run(EngineTarget(engine, measurement.options))
        target = {"engine": engine.health(), "settings": loaded.describe(), "stage_costs": engine.stage_costs}
        return target, runs
