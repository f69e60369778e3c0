"""The budget of a GPU: it always fits, more memory never gives less, and what does not fit is refused with numbers."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_tts.errors import ConfigError
from light_tts.memory_plan import KV_CACHE, MB, MemoryPlan, plan_memory
from light_tts.model_sizes import ModelSizes
from light_tts.settings import AcousticSettings, EngineSettings, LLMSettings, Settings

GB = 1024 * MB
SIZES = ModelSizes(
    name="model",
    num_llms=1,
    llm_weights=1000 * MB,
    flow_weights=200 * MB,
    vocoder_weights=200 * MB,
    kv_token=12_288,
    flow_page=115 * MB,
    flow_page_s=1.0,
    vocoder_stream=33_000,
    llm_row=36_000,
    llm_logits=150_000,
    flow_frame=24_000,
    vocoder_frame=200_000,
)


def settings_of(share: float | None = None, **llm: int) -> Settings:
    return Settings(llm=LLMSettings(**llm), engine=EngineSettings(gpu_memory_utilization=share))  # type: ignore[arg-type]


def plan(total_gb: float, share: float | None = None, available_gb: float | None = None, **llm: int) -> MemoryPlan:
    available = None if available_gb is None else round(available_gb * GB)
    return plan_memory(SIZES, settings_of(share, **llm), total_bytes=round(total_gb * GB), available_bytes=available)


def part(of: MemoryPlan, name: str) -> int:
    return dict(of.parts)[name]


@given(
    total_gb=st.floats(4, 200),
    share=st.one_of(st.none(), st.floats(0.1, 0.9)),
    tokens=st.integers(8192, 2_000_000),
    prompt_mb=st.integers(0, 20_000),
    stream_mb=st.none() | st.integers(0, 20_000),
)
def test_the_parts_never_exceed_the_cap(total_gb, share, tokens, prompt_mb, stream_mb):
    settings = replace(
        settings_of(share, max_total_tokens=tokens),
        acoustic=AcousticSettings(prompt_cache_mb=prompt_mb, stream_cache_mb=stream_mb),
    )
    total = round(total_gb * GB)
    try:
        found = plan_memory(SIZES, settings, total_bytes=total)
    except ConfigError:
        return
    assert found.free_bytes >= 0
    assert found.cap_bytes <= total * (share or 1.0)
    assert 8192 <= found.max_total_tokens <= tokens
    assert found.max_total_tokens % settings.llm.block_tokens == 0
    assert found.prompt_cache_mb <= prompt_mb
    assert stream_mb is None or found.stream_cache_mb <= stream_mb
    assert part(found, KV_CACHE) == found.max_total_tokens * SIZES.kv_token
    if share is None:
        assert found.max_total_tokens == tokens // 16 * 16, "nobody asked for a smaller one"
    if not found.changes:
        assert found.prompt_cache_mb == prompt_mb
        assert found.stream_cache_mb >= 2048 if stream_mb is None else found.stream_cache_mb == stream_mb


@given(smaller=st.floats(0.6, 0.9), more=st.floats(0, 0.3))
def test_a_larger_share_never_gives_less(smaller, more):
    one, other = plan(8, smaller), plan(8, min(0.9, smaller + more))
    for name in ("max_total_tokens", "prompt_cache_mb", "stream_cache_mb", "cap_bytes"):
        assert getattr(one, name) <= getattr(other, name)


def test_everything_fits_as_asked_into_a_large_gpu():
    settings = replace(settings_of(0.9), acoustic=AcousticSettings(stream_cache_mb=2048))
    found = plan_memory(SIZES, settings, total_bytes=24 * GB)
    assert (found.max_total_tokens, found.prompt_cache_mb, found.stream_cache_mb) == (65536, 1024, 2048)
    assert found.changes == ()
    assert found.apply(settings) == settings


def test_streams_get_more_than_half_of_what_is_left_unless_they_are_told():
    settings = replace(settings_of(0.9), acoustic=AcousticSettings(stream_cache_mb=2048))
    left = plan_memory(SIZES, settings, total_bytes=24 * GB).free_bytes
    found = plan(24, 0.9)
    assert found.stream_cache_mb * MB == pytest.approx(2048 * MB + 0.6 * left, abs=2 * MB)
    assert found.free_bytes == pytest.approx(0.4 * left, abs=2 * MB)
    assert (found.max_total_tokens, found.prompt_cache_mb) == (65536, 1024)


def test_what_shrinks_is_said_and_applied():
    found = plan(8, 0.8)
    applied = found.apply(settings_of(0.8))
    assert applied.acoustic.stream_cache_mb == found.stream_cache_mb < 2048
    assert applied.llm.max_total_tokens == found.max_total_tokens < 65536
    assert [change.split()[0] for change in found.changes] == ["max_total_tokens", "prompt_cache_mb", "stream_cache_mb"]
    assert f"stream_cache_mb is {found.stream_cache_mb} instead of 2048" in found.changes[-1]


def test_the_allocator_is_told_to_leave_room_for_cuda_itself():
    found = plan(80, 0.3)
    assert 0.28 < found.allocator_fraction < 0.3


def test_a_share_that_is_too_small_is_refused_with_the_least_that_works():
    with pytest.raises(ConfigError, match=r"gpu_memory_utilization 0\.2 of this GPU is 1638 MB") as refused:
        plan(8, 0.2)
    least = float(re.findall(r"use at least ([0-9.]+)", str(refused.value))[0])
    plan(8, least)
    with pytest.raises(ConfigError):
        plan(8, least - 0.011)


def test_a_gpu_that_is_too_small_is_refused_with_the_size_that_works():
    with pytest.raises(ConfigError, match=r"use a GPU with [0-9]+ MB") as refused:
        plan(3, 0.9)
    needed_mb = int(re.findall(r"use a GPU with ([0-9]+) MB", str(refused.value))[0])
    plan(needed_mb / 1024, 0.9)


def test_neighbours_count():
    assert plan(24, 0.5, available_gb=6).cap_bytes == 6 * GB
    with pytest.raises(ConfigError, match="only 2048 MB of 24576 MB are free"):
        plan(24, None, available_gb=2)
    with pytest.raises(ConfigError, match="only 2048 MB of 24576 MB are free"):
        plan(24, 0.9, available_gb=2)


def test_without_a_share_a_kv_cache_that_does_not_fit_is_refused_with_the_largest_that_does():
    with pytest.raises(ConfigError, match=r"max_total_tokens 2000000 takes .* at most (\d+) of 8192 MB") as refused:
        plan(8, max_total_tokens=2_000_000)
    most = int(re.findall(r"at most (\d+)", str(refused.value))[0])
    found = plan(8, max_total_tokens=most)
    assert found.max_total_tokens == most
    assert found.prompt_cache_mb + found.stream_cache_mb == 0
    with pytest.raises(ConfigError):
        plan(8, max_total_tokens=most + 16)


def test_without_a_share_only_the_flows_caches_shrink():
    found = plan(7)
    assert found.max_total_tokens == 65536
    assert found.stream_cache_mb < 2048


def test_recorded_steps_take_nothing_when_none_are_recorded():
    settings = replace(settings_of(0.9), llm=LLMSettings(disable_cudagraph=True))
    found = plan_memory(SIZES, settings, total_bytes=24 * GB)
    assert part(found, "recorded steps (CUDA graphs)") == 0


def test_health_pages_get_numbers():
    described = plan(24, 0.5).describe()
    assert described["cap_bytes"] == 12 * GB
    assert sum(described["parts"].values()) + described["free_bytes"] == described["cap_bytes"]


def test_an_express_lane_records_calls_of_its_own():
    """Of 4 hops of 2 chunks of 50 frames, and what a vocoder may hold of a piece before each."""
    with_lane, without = (
        part(
            plan_memory(
                SIZES, replace(settings_of(), acoustic=AcousticSettings(express_streams=streams)), total_bytes=80 * GB
            ),
            "recorded steps (CUDA graphs)",
        )
        for streams in (8, 0)
    )
    assert with_lane - without == 4 * (2 * 50 + 8) * (SIZES.flow_frame + SIZES.vocoder_frame)
