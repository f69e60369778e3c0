"""The plan is made of what is free, said line by line, given to the allocator, and kept under load."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from light_tts import gpu_memory
from light_tts.assets import builtin_model_dir
from light_tts.engine import TTSEngine
from light_tts.errors import ConfigError
from light_tts.gpu_memory import claim_gpu_memory
from light_tts.llm.weight_plan import WeightPlan
from light_tts.memory_plan import MB
from light_tts.models.model_dir import ModelDirectory
from light_tts.placement import Placement
from light_tts.settings import EngineSettings, LLMSettings, Settings
from light_tts.types import SynthesisRequest

TOTAL_BYTES = 8192 * MB
TEXT = "The train leaves at nine. " * 4


def placement(device: str) -> Placement:
    return Placement(torch.device(device), torch.bfloat16, torch.bfloat16, torch.float32, "for a test")


def claim(share: float | None, device: str = "cuda", **llm: int):
    settings = Settings(llm=LLMSettings(**llm), engine=EngineSettings(gpu_memory_utilization=share))
    return claim_gpu_memory(settings, ModelDirectory.open(builtin_model_dir()), placement(device), WeightPlan())


@pytest.fixture
def fractions(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A GPU of 8 GB of which 6 are free, as torch would describe it; what its allocator is told."""
    told: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (6144 * MB, TOTAL_BYTES))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda fraction: told.append(fraction))
    return told


def test_there_is_no_plan_without_a_gpu():
    assert claim(0.5, "cpu") is None


def test_a_share_binds_the_allocator_below_it(fractions):
    plan = claim(0.5)
    assert plan.cap_bytes == TOTAL_BYTES // 2
    assert fractions == [plan.allocator_fraction]
    assert 0.35 < fractions[0] < 0.5


def test_without_a_share_the_allocator_is_free_and_neighbours_are_left_out_of_the_plan(fractions):
    plan = claim(None)
    assert 6144 * MB < plan.cap_bytes < 7168 * MB
    assert fractions == [1.0]


def test_what_cannot_fit_is_refused_before_the_allocator_is_touched(fractions):
    with pytest.raises(ConfigError, match="room for at most"):
        claim(None, max_total_tokens=100_000_000)
    assert fractions == []


def test_the_log_has_a_line_for_each_part(fractions, caplog):
    with caplog.at_level(logging.INFO, gpu_memory.__name__):
        plan = claim(0.4)
    lines = [record.getMessage() for record in caplog.records]
    for part in plan.parts:
        assert f"GPU memory: {part.name}: {part.num_bytes / MB:.0f} MB" in lines
    assert plan.changes
    assert set(plan.changes) <= set(lines)


@pytest.fixture
def free_allocator() -> Iterator[None]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
def test_a_process_stays_under_its_share_under_load(free_allocator):
    total_bytes = torch.cuda.mem_get_info()[1]
    before_bytes = total_bytes - torch.cuda.mem_get_info()[0]
    settings = Settings(engine=EngineSettings(gpu_memory_utilization=0.2))
    with TTSEngine.load(settings) as engine:
        engine.warm_up()
        streams = [
            engine.submit(SynthesisRequest(TEXT, voice="en_female", seed=k, stream=k % 2 > 0)) for k in range(32)
        ]
        for stream in streams:
            with stream:
                assert sum(chunk.samples.size for chunk in stream) > 24_000
        described = engine.health()["memory_plan"]
        used_bytes = total_bytes - torch.cuda.mem_get_info()[0] - before_bytes
    assert described["cap_bytes"] <= 0.2 * total_bytes
    assert torch.cuda.max_memory_reserved() <= 0.2 * total_bytes
    assert used_bytes <= 0.2 * total_bytes
