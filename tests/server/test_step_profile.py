"""Profiles on demand: of the built-in model's real steps, and by signal from outside."""

import gzip
import json
import os
import signal
import threading

import pytest
import torch

from light_tts.engine import TTSEngine
from light_tts.errors import ConfigError
from light_tts.events import AcousticCall, LLMStep, NoEvents
from light_tts.server.step_profile import ACTIVE_STEPS, StepProfiler
from light_tts.settings import AcousticSettings, FrontendSettings, ModelSettings, Settings
from light_tts.types import SynthesisRequest

TEXT = "The weather is fine today."
CALL = AcousticCall(0.1, 0.1, 1, 10, 1.0)


class Counting(NoEvents):
    def __init__(self):
        self.told = []

    def llm_step(self, step):
        self.told.append(step)

    def acoustic_call(self, call):
        self.told.append(call)

    def stage_restarted(self, stage):
        self.told.append(stage)

    def request_retried(self):
        self.told.append("retried")


def traces(directory):
    return [json.loads(gzip.decompress(path.read_bytes())) for path in sorted(directory.glob("*.pt.trace.json.gz"))]


def on_a_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def calls(profiler, number):
    on_a_thread(lambda: [profiler.acoustic_call(CALL) for _ in range(number)])


@pytest.mark.slow
def test_the_models_steps_are_recorded(tmp_path):
    settings = Settings(
        model=ModelSettings(device="cpu", cpu_threads=1),
        acoustic=AcousticSettings(token_hop_len=10, flow_steps=1),
        frontend=FrontendSettings(voices_dir=tmp_path / "voices"),
    )
    profiler = StepProfiler(tmp_path / "made" / "for it", Counting())
    with TTSEngine.load(settings, profiler) as engine:
        profiler.ask()
        for seed in range(10):
            if traces(tmp_path / "made" / "for it"):
                break
            with engine.submit(SynthesisRequest(TEXT, voice="en_female", seed=seed)) as audio:
                assert sum(chunk.samples.size for chunk in audio)
    [trace] = traces(tmp_path / "made" / "for it")
    names = {event["name"] for event in trace["traceEvents"] if event.get("ph") == "X"}
    assert len({name for name in names if name.startswith("ProfilerStep#")}) == ACTIVE_STEPS
    assert "aten::addmm" in names or "aten::linear" in names


def test_what_other_threads_compute_meanwhile_is_recorded_too(tmp_path):
    profiler = StepProfiler(tmp_path, Counting())
    profiler.ask()

    def lane():  # whoever begins a profile ends it
        for number in range(6):
            profiler.acoustic_call(CALL)
            if number == 2:
                on_a_thread(lambda: torch.ones(3).cumprod(0))

    on_a_thread(lane)
    [trace] = traces(tmp_path)
    assert "aten::cumprod" in {event["name"] for event in trace["traceEvents"]}


def test_nothing_is_written_until_somebody_asks_and_once_for_each_wish(tmp_path):
    profiler = StepProfiler(tmp_path, Counting())
    calls(profiler, 10)
    assert traces(tmp_path) == []
    for wishes in (1, 2):
        profiler.ask()
        calls(profiler, 20)
        assert len(traces(tmp_path)) == wishes


def test_the_listener_behind_hears_everything(tmp_path):
    behind = Counting()
    profiler = StepProfiler(tmp_path, behind)
    step = LLMStep(0.1, 1, 1)
    profiler.llm_step(step)
    profiler.acoustic_call(CALL)
    profiler.stage_restarted("acoustic")
    profiler.request_retried()
    assert behind.told == [step, CALL, "acoustic", "retried"]


def test_a_directory_that_went_away_harms_no_step(tmp_path, caplog):
    profiler = StepProfiler(tmp_path / "traces", Counting())
    (tmp_path / "traces").rmdir()
    (tmp_path / "traces").write_text("in the way")
    profiler.ask()
    calls(profiler, 20)
    assert "the profile has failed" in caplog.text
    (tmp_path / "traces").unlink()
    profiler.ask()
    calls(profiler, 20)
    assert len(traces(tmp_path / "traces")) == 1


def test_a_directory_that_cannot_be_made_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"profile_dir .*file/traces cannot be made: Not a directory"):
        StepProfiler(tmp_path / "file" / "traces", Counting())


def test_the_signal_asks(tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    try:
        profiler = StepProfiler(tmp_path, Counting())
        profiler.listen()
        os.kill(os.getpid(), signal.SIGUSR1)
        calls(profiler, 20)
        assert len(traces(tmp_path)) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)
