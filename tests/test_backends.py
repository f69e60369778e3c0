"""What computes each stage is said, with the reason; nothing that is missing keeps the server from starting."""

from __future__ import annotations

import importlib.util

import pytest

from light_tts.backends import choose_backends
from light_tts.settings import ModelSettings, Settings


def flow_backend(*, load_trt: bool) -> str:
    return str(choose_backends(Settings(model=ModelSettings(load_trt=load_trt)))["flow"])


def test_without_tensorrt_the_flow_runs_on_the_built_in_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert flow_backend(load_trt=True) == "built-in (TensorRT is not installed)"
    assert flow_backend(load_trt=False) == "built-in (TensorRT was not asked for, load_trt is off)"


def test_tensorrt_alone_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert flow_backend(load_trt=True) == "built-in (there is no TensorRT engine for this model and GPU)"
