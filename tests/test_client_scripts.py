"""The programs of test/, each against a server on this machine for a moment."""

import importlib.util
import json
import subprocess
import sys
import wave
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")

from light_tts.errors import EngineFailure
from light_tts.server.app import create_app
from light_tts.settings import ServerSettings, Settings
from tests.server.conftest import logging_goes_through_the_standard_library, serving  # noqa: F401 (a fixture)
from tests.server.fake_engine import FakeEngine

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "test"
HEALTH = {"dtypes": {"llm": "bfloat16"}, "resident_bytes": 2**30}


class Engine(FakeEngine):
    def health(self):
        return {**super().health(), **HEALTH}


@pytest.fixture
def engine():
    return Engine(chunks=2)


@pytest.fixture
def port(engine):
    settings = Settings(server=ServerSettings(keep_alive_s=60))
    with serving(create_app(engine, settings), settings) as url:
        yield url.rsplit(":", 1)[1]


@pytest.fixture
def program(monkeypatch):
    """`program(name)` is the module of test/<name>.py, loaded as it would be when run from there."""
    monkeypatch.syspath_prepend(PROGRAMS)
    before = set(sys.modules)

    def load(name):
        spec = importlib.util.spec_from_file_location(f"program_{name}", PROGRAMS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    yield load
    for name in set(sys.modules) - before:
        if name in ("common", "zs_load", "score"):
            del sys.modules[name]


def test_zero_shot_writes_a_wav_for_each_request(program, port, engine, tmp_path, capsys):
    words = ["--port", port, "--stream", "--num", "2", "--steps", "5", "--cosyvoice_version", "3"]
    assert program("test_zero_shot").main([*words, "--output_dir", str(tmp_path / "out")]) == 0
    for number in range(2):
        with wave.open(str(tmp_path / "out" / f"zero_shot_{number}.wav")) as file:
            assert (file.getframerate(), file.getnframes()) == (24_000, 9_600)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(word in lines[0] for word in ("time", "TTFT", "RTF"))
    for request in engine.requests:
        assert (request.stream, request.flow_steps) == (True, 5)
        assert request.voice.data == (PROGRAMS / "prompt.wav").read_bytes()
        assert request.voice.prompt_text.startswith("You are a helpful assistant.<|endofprompt|>The weather")


@pytest.mark.parametrize(("name", "stream"), [("test_zs_speed", False), ("test_zs_stream", True)])
def test_speed_prints_a_row_for_each_level(program, port, engine, capsys, name, stream):
    words = ["--port", port, "--num_workers", "1", "3", "--num", "4", "--dtype", "bf16", "--steps", "7"]
    assert program(name).main(words) == 0
    heading, rule, *rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert len(rule) == len(heading) == 8
    assert [(row[0].strip("| "), row[1]) for row in rows] == [("stream" if stream else "non-stream", n) for n in "13"]
    assert (rows[0][3] != "-") == stream
    assert all(row[2].count("/") == 2 and float(row[7].strip("| ")) > 0 for row in rows)
    measured = [request for request in engine.requests if request.seed < 1_000_000]
    assert len(measured) == 8
    assert {(request.stream, request.flow_steps) for request in measured} == {(stream, 7)}
    assert len({request.text for request in measured}) == 4


def test_another_precision_than_asked_for_is_not_measured(program, port, engine):
    with pytest.raises(SystemExit, match="runs its language model in bfloat16"):
        program("test_zs_speed").main(["--port", port, "--dtype", "float16"])
    assert engine.requests == []


def test_the_texts_are_fifty_and_all_different():
    texts = json.loads((PROGRAMS / "test_texts.json").read_text("utf-8"))
    assert len(texts) == len(set(texts)) == 50


def test_bistream_writes_one_session(program, port, engine, tmp_path, capsys):
    target = tmp_path / "out.wav"
    assert program("test_bistream").main(["--port", port, "--output", str(target)]) == 0
    with wave.open(str(target)) as file:
        assert file.getnframes() > 0
    assert "".join(engine.streams[0].fed) == "Good morning, and thank you for calling the harbour office."
    assert '"sessions": 1' in capsys.readouterr().out


def test_bistream_goes_on_for_its_duration_and_reports(program, port, tmp_path):
    report = tmp_path / "report.json"
    words = ["--port", port, "--duration", "0.02", "--output", str(tmp_path / "out.wav"), "--report", str(report)]
    assert program("test_bistream").main(words) == 0
    told = json.loads(report.read_text())
    assert told["sessions"] > 1
    assert (told["errors"], told["passed"]) == ({}, True)
    assert told["memory_growth_mb_per_1000_sessions"] == {"process": 0.0}
    assert set(told["first_audio_s"]) == {"p50", "p90", "p99"}


def test_bistream_fails_for_errors(program, port, engine, tmp_path, capsys):
    engine.error = EngineFailure("broken")
    assert program("test_bistream").main(["--port", port, "--output", str(tmp_path / "out.wav")]) == 1
    assert '"ServerFailed INFERENCE_FAILED": 1' in capsys.readouterr().out


def test_bistream_sees_growth_and_drift(program):
    record = program("test_bistream").Record()
    for number in range(100):
        record.first_audio_s.append(0.1 + 0.002 * number)
        record.look({"resident_bytes": 2**30 + number * 2**20, "gpu_memory": {"used_bytes": 2**30}})
    assert record.growth_mb_per_1000() == {"process": pytest.approx(1000.0), "gpu": 0.0}
    assert record.drift() > 1.5


def test_short_text_stress_has_every_percentile(program, port, engine, capsys):
    words = ["--port", port, "--users", "4", "--requests", "5", "--no_cache", "--voice", "en_male"]
    assert program("short_text_stress").main(words) == 0
    out = capsys.readouterr().out
    assert "20 of 20 requests of 4 users" in out
    assert "| ms | mean | p50 | p90 | p95 | p99 |" in out
    assert "| first audio byte | " in out
    assert "QPS " in out
    assert {(request.voice, request.phrase_cache) for request in engine.requests} == {("en_male", False)}
    assert len({request.text for request in engine.requests}) == 8


def test_stress_counts_what_fails(program, port, engine, capsys):
    assert program("stress").main(["--port", port, "-n", "6", "-c", "2", "--voice", "en_male", "--stream"]) == 0
    assert "6 of 6" in capsys.readouterr().out
    engine.overloaded = True
    assert program("stress").main(["--port", port, "-n", "2", "-c", "2"]) == 1
    assert "2 failed: http 503 OVERLOADED" in capsys.readouterr().out


def test_quality_is_compared_on_the_same_texts_and_seeds(program, port, engine, tmp_path, capsys):
    target = tmp_path / "quality.json"
    words = ["--port", port, "--a", "flow_steps=10", "--b", "flow_steps=5", "--num", "1", "--seeds", "3", "4"]
    # Both settings sound the same here: a sine, in which nothing is understood.
    assert program("quality_compare").main([*words, "--output", str(target)]) == 0
    report = json.loads(target.read_text())
    assert report["passed"]
    assert report["figures"]["A"] == report["figures"]["B"]
    assert report["figures"]["A"]["phoneme errors"] > 0.5
    assert [(request.flow_steps, request.seed) for request in engine.requests] == [(10, 3), (10, 4), (5, 3), (5, 4)]
    assert [request.text for request in engine.requests[:2]] == [request.text for request in engine.requests[2:]]
    assert "within the limit of 5 %" in capsys.readouterr().out


def test_the_quality_verdict_can_fail(program):
    compare = program("quality_compare")

    def outcome(errors, similarity):
        return [compare.Outcome("text", "en", 0, errors, 100, similarity, 1.0)]

    arguments = compare._parse([])
    for b, verdict in ((outcome(4, 0.8), True), (outcome(6, 0.8), False), (outcome(0, 0.7), False)):
        assert compare._report({"A": outcome(0, 0.8), "B": b}, arguments)["passed"] is verdict


def test_they_run_from_anywhere(port, tmp_path):
    words = [sys.executable, str(PROGRAMS / "test_zero_shot.py"), "--port", port]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "zero_shot_0.wav").is_file()


def test_pytest_takes_none_of_them_for_a_test():
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", str(PROGRAMS)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 5  # nothing collected


def test_the_prompt_is_one_of_the_built_in_recordings():
    original = ROOT / "light_tts" / "assets" / "builtin" / "prompts"
    text = json.loads((original / "prompts.json").read_text())["en_female"]["text"]
    assert (PROGRAMS / "prompt.wav").read_bytes() == (original / "en_female.wav").read_bytes()
    assert f'PROMPT_TEXT = "{text}"' in (PROGRAMS / "common.py").read_text()
