"""Where the models run, and how torch is set up for it."""

from __future__ import annotations

import pytest

from light_tts.placement import prepare_gpu


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
