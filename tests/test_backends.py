"""What computes each stage is said, with the reason; nothing that is missing keeps the server from starting."""

from __future__ import annotations

import importlib.util

import pytest

from light_tts.backends import check_llm_backend, choose_backends
from light_tts.errors import ConfigError
from light_tts.settings import LLMSettings, ModelSettings, Settings


def flow_backend(*, load_trt: bool) -> str:
    return str(choose_backends(Settings(model=ModelSettings(load_trt=load_trt)))["flow"])


def test_without_tensorrt_the_flow_runs_on_the_built_in_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert flow_backend(load_trt=True) == "built-in (TensorRT is not installed)"
    assert flow_backend(load_trt=False) == "built-in (TensorRT was not asked for, load_trt is off)"


def test_tensorrt_alone_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert flow_backend(load_trt=True) == "built-in (there is no TensorRT engine for this model and GPU)"


def test_the_language_model_says_what_computes_it() -> None:
    assert str(choose_backends(Settings())["llm"]) == "built-in (all requests in one batch)"
    chosen = choose_backends(Settings(llm=LLMSettings(llm_backend="vllm")))["llm"]
    assert (chosen.name, "no text in pieces" in chosen.reason) == ("vllm", True)


@pytest.mark.parametrize(
    ("others", "styles", "what"),
    [
        ({"quant_type": "int8"}, ["a"], "quant_type int8"),
        ({"kv_cache_dtype": "int8"}, ["a"], "kv_cache_dtype int8"),
        ({}, ["a", "b"], "2 styles"),
    ],
)
def test_what_vllm_cannot_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, others: dict[str, str], styles: list[str], what: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    check_llm_backend(LLMSettings(llm_backend="vllm"), ["a"])
    check_llm_backend(LLMSettings(**others), styles)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"does not go with .*{what}"):
        check_llm_backend(LLMSettings(llm_backend="vllm", **others), styles)  # type: ignore[arg-type]


def test_vllm_that_is_not_installed_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_llm_backend(LLMSettings(), ["a"])
    with pytest.raises(ConfigError, match="vLLM is not installed"):
        check_llm_backend(LLMSettings(llm_backend="vllm"), ["a"])
