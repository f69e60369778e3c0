"""The precision of flow and vocoder: kept where it gives numbers, given up with a warning where it does not."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from light_tts.assets import builtin_model_dir
from light_tts.half_precision import load_finite_flow, load_finite_vocoder
from light_tts.models.model_dir import ModelDirectory

CPU = torch.device("cpu")
LOADERS = {"flow": load_finite_flow, "vocoder": load_finite_vocoder}


class Overflowing:
    """The built-in directory; outside of float32 its networks give infinities."""

    def __init__(self) -> None:
        self._directory = ModelDirectory.open(builtin_model_dir())
        self.loaded: list[torch.dtype] = []

    def load_flow(self, *, dtype: torch.dtype, device: torch.device) -> Any:
        self.loaded.append(dtype)
        net = self._directory.load_flow(dtype=dtype, device=device)
        if dtype is not torch.float32:
            net._embedding.data.fill_(float("inf"))
        return net

    def load_vocoder(self, *, dtype: torch.dtype, device: torch.device) -> Any:
        self.loaded.append(dtype)
        net = self._directory.load_vocoder(dtype=dtype, device=device)
        if dtype is not torch.float32:
            net.generator.conv_pre.weight.data.fill_(float("nan"))
        return net


@pytest.mark.parametrize("stage", LOADERS)
def test_a_precision_that_gives_numbers_is_kept(stage: str) -> None:
    loaded = LOADERS[stage](ModelDirectory.open(builtin_model_dir()), torch.bfloat16, CPU)
    assert loaded.dtype is torch.bfloat16


@pytest.mark.parametrize("stage", LOADERS)
def test_one_that_does_not_is_given_up_with_a_warning(stage: str, caplog: pytest.LogCaptureFixture) -> None:
    directory = Overflowing()
    with caplog.at_level(logging.WARNING):
        loaded = LOADERS[stage](directory, torch.float16, CPU)  # type: ignore[arg-type]
    assert loaded.dtype is torch.float32
    assert directory.loaded == [torch.float16, torch.float32]
    assert caplog.messages == [f"the {stage} gives values that are no numbers in torch.float16, so it runs in float32"]


@pytest.mark.parametrize("stage", LOADERS)
def test_float32_is_not_doubted(stage: str) -> None:
    directory = Overflowing()
    assert LOADERS[stage](directory, torch.float32, CPU).dtype is torch.float32  # type: ignore[arg-type]
    assert directory.loaded == [torch.float32]
