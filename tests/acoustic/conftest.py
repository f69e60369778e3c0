"""Where Triton kernels can run without a GPU."""

import os

import pytest


@pytest.fixture
def interpreter():
    """Triton's interpreter (`TRITON_INTERPRET=1`)."""
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs Triton's interpreter")
