"""Where a Triton kernel can run: on a GPU, or without one in Triton's interpreter (`TRITON_INTERPRET=1`)."""

import os

import pytest

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(not _INTERPRETED, reason="needs Triton's interpreter")),
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(_INTERPRETED, reason="interpreting")]),
]


@pytest.fixture(params=_DEVICES)
def device(request):
    pytest.importorskip("triton")
    return request.param
