"""Where a Triton kernel can run: on a GPU, or without one in Triton's interpreter (`TRITON_INTERPRET=1`)."""

import os

import pytest
import torch

from light_tts.kernels import compile_ahead, compile_pool

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(not _INTERPRETED, reason="needs Triton's interpreter")),
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(_INTERPRETED, reason="interpreting")]),
]


@pytest.fixture(params=_DEVICES)
def device(request):
    pytest.importorskip("triton")
    return request.param


class HopperDriver:
    """Says what a driver says of an H100; a launch would fail, since nothing is there to launch with."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Triton with an empty cache."""
    pytest.importorskip("triton")
    from triton import knobs
    from triton.runtime import driver

    if knobs.runtime.interpret:
        pytest.skip("interpreting")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compile_ahead, "num_threads", lambda: 2)
    monkeypatch.setattr(compile_pool, "usable_cpus", lambda: 2)
    if not torch.cuda.is_available():
        monkeypatch.setattr(driver, "_active", HopperDriver())
    return knobs
