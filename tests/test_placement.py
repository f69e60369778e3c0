"""Where the models run, and how torch is set up for it."""

from __future__ import annotations

import sys

import pytest
import torch

from light_tts.errors import ConfigError
from light_tts.placement import MAX_TURN_S, place, prepare_gpu, shorten_turns
from light_tts.settings import ModelSettings


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:512"}),
        ({"PYTORCH_CUDA_ALLOC_CONF": ""}, {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:512"}),
        ({"PYTORCH_CUDA_ALLOC_CONF": "a:1"}, {"PYTORCH_CUDA_ALLOC_CONF": "a:1"}),
        ({"PYTORCH_ALLOC_CONF": "a:1"}, {"PYTORCH_ALLOC_CONF": "a:1"}),
    ],
)
def test_the_allocator_is_set_up_unless_the_user_has(given: dict[str, str], expected: dict[str, str]) -> None:
    prepare_gpu(given)
    assert given == expected


@pytest.mark.gpu
def test_the_log_says_how_gpu_memory_is_handled(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        prepare_gpu({"PYTORCH_CUDA_ALLOC_CONF": "a:1"})
    assert caplog.messages == [
        "GPU memory: PYTORCH_CUDA_ALLOC_CONF=a:1; cudnn.benchmark: off, since audio has any length"
    ]


@pytest.mark.parametrize(("before_s", "after_s"), [(0.005, MAX_TURN_S), (0.0001, 0.0001)])
def test_turns_get_shorter_and_never_longer(before_s: float, after_s: float) -> None:
    given_s = sys.getswitchinterval()
    try:
        sys.setswitchinterval(before_s)
        shorten_turns()
        assert sys.getswitchinterval() == pytest.approx(after_s, abs=2e-6)
    finally:
        sys.setswitchinterval(given_s)


def test_each_stage_has_its_own_precision() -> None:
    settings = ModelSettings(device="cpu", llm_dtype="float16", flow_dtype="bfloat16")
    assert place(settings).describe() == {"llm": "float16", "flow": "bfloat16", "vocoder": "float32"}
    automatic = place(ModelSettings(device="cpu"))
    assert set(automatic.describe().values()) == {"float32"}


def test_a_gpu_gets_sixteen_bits_where_it_is_ampere_or_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    newer = place(ModelSettings())
    assert newer.describe() == {"llm": "bfloat16", "flow": "bfloat16", "vocoder": "float16"}
    assert place(ModelSettings(vocoder_dtype="float32")).vocoder_dtype is torch.float32
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    assert set(place(ModelSettings()).describe().values()) == {"float32"}


def test_bfloat16_is_refused_on_a_gpu_that_cannot_compute_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    with pytest.raises(ConfigError, match="llm_dtype bfloat16 needs a GPU of the Ampere generation or newer"):
        place(ModelSettings(llm_dtype="bfloat16"))
