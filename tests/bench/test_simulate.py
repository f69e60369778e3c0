"""A machine on a virtual clock: what must hold of any load, and the command around it."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from light_tts.bench import command
from light_tts.bench.simulation.figures import Figures, find_capacity
from light_tts.bench.simulation.listeners import Load
from light_tts.bench.simulation.machine_costs import DerivedCosts, LLMCosts, MachineCosts, machine_names, read_measured
from light_tts.bench.simulation.simulator import Outcome, Simulation, arithmetic_limit
from light_tts.commands.arguments import CommandParser
from light_tts.errors import ConfigError
from light_tts.settings import AcousticSettings

SETTINGS = AcousticSettings()
# Rows share a floor of 10 ms; 40 streams are 80 % of what the acoustic stage can do.
MACHINE = MachineCosts(
    "test",
    "invented",
    is_shared=False,
    llm=LLMCosts(step_floor_s=0.001, step_s=0.001, row_s=0.0, row_compute_s=0.0, prefill_s=0.001),
    acoustic=DerivedCosts(flow_floor_s=0.01, flow_frame_s=0.0004, vocoder_floor_s=0.0, vocoder_frame_s=0.0),
    labels={},
)


def simulate(load: Load, settings: AcousticSettings = SETTINGS, machine: MachineCosts = MACHINE) -> Outcome:
    return Simulation(load, machine, settings, max_running=100).run()


def figures(load: Load, **fields) -> Figures:
    return Figures.of(simulate(load, **fields), load)


loads = st.builds(
    Load,
    arrivals=st.sampled_from(["steady", "burst", "poisson"]),
    streams=st.integers(1, 80),
    rate_hz=st.floats(0.5, 10.0),
    duration_s=st.just(6.0),
    audio_s=st.floats(0.5, 8.0),
    stream=st.booleans(),
    seed=st.integers(0, 1000),
)


@hypothesis_settings(deadline=None, max_examples=40)
@given(loads, st.integers(1, 16), st.sampled_from(["chunk", "full"]))
def test_nobody_starves_and_everybody_gets_all_of_the_audio(load, max_batch, final_hop_mask):
    settings = replace(SETTINGS, max_batch=max_batch, final_hop_mask=final_hop_mask)
    outcome = simulate(load, settings)
    assert all(rows <= max_batch for rows in outcome.call_rows)
    for answer in outcome.answers:
        assert answer.ended_s is not None
        audio_s = sum(seconds for _, seconds in answer.pieces)
        assert audio_s == pytest.approx(answer.num_tokens / 25)
    assert outcome.acoustic_busy_s <= outcome.end_s + 1e-6


@hypothesis_settings(deadline=None, max_examples=15)
@given(st.integers(2, 60), st.integers(0, 100))
def test_first_audio_is_ordered_by_age(streams, seed):
    """Of listeners who come one after the other, nobody is heard much before somebody who came earlier."""
    load = Load("poisson", rate_hz=float(streams), duration_s=2.0, audio_s=4.0, seed=seed)
    heard = [answer.asked_s + answer.pieces[0][0] for answer in simulate(load).answers]
    longest_call_s = MACHINE.acoustic.call_s([50] * SETTINGS.max_batch)
    assert all(earlier <= later + longest_call_s + 0.1 for earlier, later in pairwise(heard))


def test_players_run_dry_only_above_the_capacity():
    limit = arithmetic_limit(MACHINE, SETTINGS)
    assert limit == pytest.approx(50.0)
    for part in (0.1, 0.4, 0.7):
        assert figures(Load(streams=int(part * limit), duration_s=30.0)).underruns == 0
    above = figures(Load(streams=int(1.3 * limit), duration_s=30.0))
    assert above.underruns > 0
    assert above.audio_s_per_s <= limit


def test_the_capacity_found_is_the_edge():
    def goes_well(streams: int) -> bool:
        return figures(Load(streams=streams, duration_s=24.0)).goes_well(1.0)

    capacity = find_capacity(goes_well)
    # Above the limit by what listeners do not ask for while they wait, and by what the first seconds leave over.
    assert 0.7 * 50 <= capacity <= 1.2 * 50
    assert figures(Load(streams=capacity, duration_s=24.0)).audio_s_per_s <= 50
    assert goes_well(capacity)
    assert not goes_well(int(1.1 * capacity) + 2)
    assert find_capacity(lambda streams: False) == 0
    assert find_capacity(lambda streams: streams <= 20) == 20


def test_the_first_audio_of_an_idle_machine_is_its_prefill_its_steps_and_one_call():
    result = figures(Load("burst", streams=1))
    expected_s = 0.001 + (22 + 3) * 0.001 + 0.4e-3 * 44
    assert result.first_audio_s is not None
    assert result.first_audio_s.max == pytest.approx(expected_s, abs=1e-4)


def test_a_load_that_is_simulated_again_gives_the_same():
    load = Load("poisson", rate_hz=4.0, duration_s=10.0)
    assert figures(load) == figures(load)


def test_a_shared_processor_does_less():
    load = Load(streams=30, duration_s=20.0)
    alone, shared = figures(load), figures(load, machine=replace(MACHINE, is_shared=True))
    assert alone.first_audio_s.p50 < shared.first_audio_s.p50
    assert arithmetic_limit(replace(MACHINE, is_shared=True), SETTINGS) < 50.0


@pytest.mark.parametrize("name", machine_names())
def test_every_known_machine_says_whether_it_was_measured(name):
    machine = MachineCosts.load(name, 2)
    label = "measured" if name == "cpu" else "derived, not measured"
    assert set(machine.labels.values()) == {label}
    assert machine.acoustic.call_s([50]) <= machine.acoustic.call_s([50] * 16)
    assert machine.llm.decode_s(1) <= machine.llm.decode_s(64)


def run_command(capsys, *words: str) -> str:
    parser = CommandParser(prog="light-tts")
    command.add_parser(parser.add_subparsers(dest="verb", required=True))
    arguments = parser.parse_args(["bench", "simulate", *words])
    assert arguments.run(arguments) == 0
    return capsys.readouterr().out


def test_the_command_says_that_nothing_was_measured(capsys, tmp_path):
    path = tmp_path / "deep" / "simulation.json"
    out = run_command(capsys, "--gpu", "a10", "--streams", "20", "--duration-s", "20", "-o", str(path))
    assert "nothing ran" in out
    assert "derived, not measured" in out
    report = json.loads(path.read_text())
    assert report["kind"] == "simulation"
    assert report["machine"]["stage_costs"] == {"llm": "derived, not measured", "acoustic": "derived, not measured"}
    assert report["figures"]["answers"] > 10
    assert report["figures"]["first_audio_s"]["p99"] < 1.0


def test_the_command_takes_measured_costs_and_settings(capsys, tmp_path):
    costs = tmp_path / "engine.json"
    costs.write_text(json.dumps({"target": {"stage_costs": [[1, 50, 0.2], [16, 50, 0.4]]}}))
    words = ("--gpu", "h200", "--costs", str(costs), "--streams", "4", "--duration-s", "10", "--max-batch", "1")
    out = run_command(capsys, *words)
    assert "measured (engine.json)" in out
    assert "calls                    1.0 streams" in out
    assert "capacity" not in out
    last = run_command(capsys, *words, "--find-capacity").splitlines()[-1].split()
    assert last[0] == "capacity"
    assert int(last[1]) >= 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arrivals", "poisson"], "--rate"),
        (["--rate", "2", "--arrivals", "burst"], "--rate"),
        (["--streams", "0"], "--streams"),
        (["--llm-share", "1.5"], "--llm-share"),
        (["--gpu", "cpu", "--family", "cosyvoice3"], "--costs"),
    ],
)
def test_mistakes_are_said_in_a_sentence(capsys, words, message):
    with pytest.raises(ConfigError, match=message):
        run_command(capsys, *words)


@pytest.mark.parametrize("text", ["{}", "[]", "[[1, 50]]", "[[1, 50, -1]]", "nonsense", '{"target": {}}'])
def test_a_file_without_timings_is_refused(tmp_path, text):
    path = tmp_path / "costs.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="--costs"):
        read_measured(path)


def test_streams_that_rest_together_leave_more_of_the_language_model():
    load = Load(arrivals="steady", streams=20, rate_hz=0.0, duration_s=30.0, audio_s=12.0, stream=True, seed=1)
    unlimited, limited = (
        Simulation(load, MACHINE, SETTINGS, max_running=100, max_lead_s=max_lead_s).run() for max_lead_s in (0.0, 4.0)
    )
    assert all(answer.ended_s is not None for answer in limited.answers)
    assert limited.llm_busy_s < 0.8 * unlimited.llm_busy_s
