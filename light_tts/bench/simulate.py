"""`light-tts bench simulate`: how many listeners would a machine serve, and how well? No model runs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from light_tts.bench.simulation.machine_costs import MachineCosts, machine_names
from light_tts.commands.arguments import add_setting_flags, add_source_flags, settings_from
from light_tts.errors import ConfigError
from light_tts.models.family import families, family_named
from light_tts.settings_spec import setting_specs

if TYPE_CHECKING:
    from light_tts.bench.simulation.figures import Figures
    from light_tts.bench.simulation.listeners import Load
    from light_tts.settings import Settings

_SEARCH_S = 30.0  # virtual time of one trial of the search
_LLM_SETTINGS = ("max_running", "max_lead_s")
_ASSUMPTIONS = (
    "voice prompts are cached and states of running streams are kept",
    "no host time between calls, no network, no preparation of text and voice",
    "the planner and the hop plans are the real ones",
)


def add_simulate_parser(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe `bench simulate`."""
    parser = kinds.add_parser(
        "simulate",
        help="a machine that is not here, on a virtual clock",
        description="Serve invented listeners on a virtual clock with the real planner and stage costs from a table. "
        "The tables of GPUs are derived from their data sheets, not measured, unless --costs gives measured ones.",
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument("--gpu", choices=machine_names(), default="a10", help="whose costs (default: %(default)s)")
    names = [family.name for family in families()]
    machine.add_argument("--family", choices=names, default=names[0], help="of the model (default: %(default)s)")
    machine.add_argument(
        "--costs", type=Path, metavar="FILE.json", help="measured acoustic calls: the output of `bench engine`"
    )
    machine.add_argument(
        "--llm-share",
        type=float,
        default=0.5,
        metavar="PART",
        help="of the GPU that the language model gets while an acoustic call runs too (default: %(default)s)",
    )
    load = parser.add_argument_group("load")
    load.add_argument("--streams", type=int, default=16, metavar="N", help="listeners (default: %(default)s)")
    load.add_argument(
        "--arrivals",
        choices=("steady", "burst", "poisson"),
        help="steady: each listener asks again after hearing the answer; burst: all at once; "
        "poisson: at random moments (default: steady, poisson with --rate)",
    )
    load.add_argument("--rate", type=float, metavar="R", help="poisson: requests per second")
    load.add_argument("--duration-s", type=float, default=60.0, metavar="S", help="(default: %(default)s)")
    load.add_argument("--audio-s", type=float, default=8.0, metavar="S", help="mean answer (default: %(default)s)")
    load.add_argument(
        "--stream", action=argparse.BooleanOptionalAction, default=True, help="audio while it is made, or when complete"
    )
    load.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    search = parser.add_argument_group("search")
    search.add_argument(
        "--find-capacity", action="store_true", help="also find the most steady listeners that are served well"
    )
    search.add_argument(
        "--max-ttfa-ms", type=float, default=1000.0, metavar="MS", help="of 99 %% of them (default: %(default)s)"
    )
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", type=Path, metavar="FILE", help="everything, as JSON")
    add_source_flags(parser)
    names = [name for name, spec in setting_specs().items() if spec.branch == "acoustic" or name in _LLM_SETTINGS]
    add_setting_flags(parser, names)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Simulate, print the figures, write them. Exit status 0 whatever they say."""
    load = _load_of(arguments)
    machine = MachineCosts.load(arguments.gpu, family_named(arguments.family).generation, arguments.costs)
    settings = settings_from(arguments).settings
    if not 0.0 < arguments.llm_share < 1.0:
        raise ConfigError(f"--llm-share must be between 0 and 1, not {arguments.llm_share}.")

    from light_tts.bench.simulation.figures import find_capacity
    from light_tts.bench.simulation.simulator import arithmetic_limit

    figures = _simulate(load, machine, settings, arguments.llm_share)
    report: dict[str, Any] = {
        "kind": "simulation",
        "machine": {"name": machine.name, "about": machine.about, "stage_costs": machine.labels},
        "family": arguments.family,
        "assumptions": [*_ASSUMPTIONS, f"the language model gets {arguments.llm_share:g} of the GPU next to a call"]
        if machine.is_shared
        else list(_ASSUMPTIONS),
        "load": asdict(load),
        "settings": {"acoustic": asdict(settings.acoustic)} | {n: getattr(settings.llm, n) for n in _LLM_SETTINGS},
        "figures": asdict(figures),
        "arithmetic_limit_streams": round(arithmetic_limit(machine, settings.acoustic), 1),
    }
    if arguments.find_capacity:
        trial = replace(load, arrivals="steady", stream=True, duration_s=max(_SEARCH_S, 3 * load.audio_s))

        def goes_well(streams: int) -> bool:
            tried = _simulate(replace(trial, streams=streams), machine, settings, arguments.llm_share, give_up=True)
            return tried.goes_well(arguments.max_ttfa_ms / 1000.0)

        report["capacity"] = {"streams": find_capacity(goes_well), "max_ttfa_ms": arguments.max_ttfa_ms}
    _print(report, figures, load)
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _load_of(arguments: argparse.Namespace) -> Load:
    from light_tts.bench.simulation.listeners import Arrivals, Load

    arrivals: Arrivals = arguments.arrivals or ("steady" if arguments.rate is None else "poisson")
    if (arrivals == "poisson") != (arguments.rate is not None):
        raise ConfigError("--rate is for --arrivals poisson, which needs it.")
    for flag in ("streams", "rate", "duration_s", "audio_s", "max_ttfa_ms"):
        value = getattr(arguments, flag)
        if value is not None and not value > 0:
            raise ConfigError(f"--{flag.replace('_', '-')} must be above 0, not {value}.")
    return Load(
        arrivals=arrivals,
        streams=arguments.streams,
        rate_hz=arguments.rate or 0.0,
        duration_s=arguments.duration_s,
        audio_s=arguments.audio_s,
        stream=arguments.stream,
        seed=arguments.seed,
    )


def _simulate(
    load: Load, machine: MachineCosts, settings: Settings, llm_share: float, *, give_up: bool = False
) -> Figures:
    from light_tts.bench.simulation.figures import Figures
    from light_tts.bench.simulation.simulator import Simulation

    simulation = Simulation(
        load,
        machine,
        settings.acoustic,
        **{name: getattr(settings.llm, name) for name in _LLM_SETTINGS},
        llm_share=llm_share,
        give_up=give_up,
    )
    return Figures.of(simulation.run(), load)


def _print(report: dict[str, Any], figures: Figures, load: Load) -> None:
    machine = report["machine"]
    who = f"{load.rate_hz:g} requests/s" if load.arrivals == "poisson" else f"{load.streams} listeners, {load.arrivals}"
    first = figures.first_audio_s
    spread = f"{first.p50:.3f} / {first.p95:.3f} / {first.p99:.3f} s" if first else "-"
    rows = [
        ("machine", machine["about"]),
        ("stage costs", ", ".join(f"{stage}: {label}" for stage, label in machine["stage_costs"].items())),
        ("load", f"{report['family']}, {who}, {load.audio_s:g} s of audio each, {load.duration_s:g} s"),
        ("answers", f"{figures.answers} ({figures.unserved} not complete when the simulation gave up)"),
        ("first audio p50/p95/p99", spread),
        ("players that ran dry", f"{figures.answers_underrun}, {figures.late_s:.1f} s of silence in all"),
        ("audio per second", f"{figures.audio_s_per_s:.1f} s"),
        ("busy", f"acoustic {figures.acoustic_busy:.0%}, language model {figures.llm_busy:.0%}"),
        ("calls", f"{figures.rows_per_call:.1f} streams of {figures.frames_per_row:.0f} frames"),
        ("arithmetic limit", f"{report['arithmetic_limit_streams']:g} streams"),
    ]
    if "capacity" in report:
        capacity = report["capacity"]
        text = f"{capacity['streams']} streams (no gap, p99 of first audio within {capacity['max_ttfa_ms']:g} ms)"
        rows.append(("capacity", text))
    print("Simulation: nothing ran on this machine.")
    for name, value in rows:
        print(f"  {name:<24} {value}")
