"""Presets: the values of the guides, a reason for each, and the verb that shows them."""

from __future__ import annotations

import re

import pytest

from light_tts.cli import main
from light_tts.settings_loader import load_settings, preset_names, preset_text
from light_tts.settings_spec import setting_specs

EXPECTED = {
    "a10", "a10-balanced", "a10-low-latency", "a10-short-text", "a10-throughput", "a100", "cpu", "h200", "rtx3080",
    "rtx3090", "rtx4090", "shared-gpu",
}  # fmt: skip

# What the guides write for each card and purpose, where their value means something here.
GUIDES = {
    "a10": {
        "max_total_tokens": 32768, "max_request_tokens": 8192, "prefill_budget_tokens": 4096, "max_running": 32,
        "max_encodings": 32, "threads": 1, "max_batch": 2, "graph_max_batch_size": 4, "llm_dtype": "bfloat16",
        "http_workers": 2, "load_trt": True, "voice_cache_capacity": 200, "voice_cache_reserved_ratio": 0.5,
        "expected_output_tokens": 1024, "steps_between_admissions": 8, "kv_watermark": 0.0,
    },
    "a10-short-text": {
        "max_total_tokens": 16384, "max_request_tokens": 2048, "prefill_budget_tokens": 1024, "max_running": 80,
        "http_workers": 6, "threads": 2, "max_encodings": 4, "kv_cache_dtype": "int8", "voice_cache_capacity": 500,
        "voice_cache_reserved_ratio": 0.7, "expected_output_tokens": 512, "steps_between_admissions": 2,
        "keep_alive_s": 2, "log_stats_interval_s": 5.0, "gpu_memory_utilization": 0.85,
    },
    "a10-low-latency": {"http_workers": 1},
    "a10-balanced": {"http_workers": 2},
    "a10-throughput": {"http_workers": 3},
    "rtx4090": {"http_workers": 3, "max_running": 100},
    "rtx3090": {"http_workers": 3},
    "a100": {"http_workers": 4},
    "rtx3080": {"http_workers": 1},
    "shared-gpu": {"gpu_memory_utilization": 0.3, "max_concurrent_requests": 3},
}  # fmt: skip


def values_of(name: str) -> dict[str, object]:
    settings = load_settings(preset=name, environment={}).settings
    return {spec.name: getattr(getattr(settings, spec.branch), spec.name) for spec in setting_specs().values()}


def test_every_machine_and_purpose_of_the_guides_is_there() -> None:
    assert set(preset_names()) == EXPECTED


@pytest.mark.parametrize("name", GUIDES)
def test_a_preset_has_the_values_of_its_guide(name: str) -> None:
    values = values_of(name)
    assert {key: values[key] for key in GUIDES[name]} == GUIDES[name]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_value_has_its_reason(name: str) -> None:
    lines = preset_text(name).splitlines()
    assert re.fullmatch(r"# .{20,118}", lines[0])
    unexplained = [line for line in lines if "=" in line and not line.startswith("#") and "#" not in line]
    assert unexplained == []


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_queues_caches_and_batches_of_a_preset_fit_together(name: str) -> None:
    values = values_of(name)
    assert values["max_request_tokens"] <= values["max_total_tokens"]  # type: ignore[operator]
    assert values["max_running"] <= 2 * values["max_concurrent_requests"]  # type: ignore[operator]


def test_the_verb_lists_and_shows_them(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    listed = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == preset_names()
    assert all(len(line.split()) > 4 for line in listed)
    assert main(["presets", "a10"]) == 0
    assert "max_batch = 2               # streams of one flow or vocoder call" in capfd.readouterr().out
    assert main(["presets", "a11"]) == 2
    assert "'a11' is not a preset; use one of a10, " in capfd.readouterr().err


def test_the_short_name_of_the_guide_for_short_texts_is_understood() -> None:
    assert values_of("a10-short") == values_of("a10-short-text")
