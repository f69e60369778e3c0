"""Sizes from shapes agree with what loaded networks and their caches really take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from light_tts.acoustic.flow_pages import PagePool
from light_tts.acoustic.vocoder_graph import VocoderGraphs
from light_tts.assets import builtin_model_dir
from light_tts.errors import CheckpointError
from light_tts.kernels.kv_slots import slot_width
from light_tts.llm.quantization import matrix_maker, weight_memory
from light_tts.llm.weight_plan import WeightPlan
from light_tts.model_sizes import (
    Precision,
    flow_page_bytes,
    kv_token_bytes,
    llm_weight_bytes,
    sizes_of_directory,
    sizes_of_family,
    vocoder_stream_bytes,
)
from light_tts.models.model_dir import ModelDirectory
from light_tts.models.nets.hift_packed import PLAIN_KERNELS
from light_tts.models.random_weights import PUBLISHED_BACKBONE
from tests.acoustic.tiny_models import CHUNK, LAYOUTS, tiny_flow, tiny_vocoder

GOLDEN = Path(__file__).parent / "golden"
BFLOAT16 = Precision("bfloat16", "bfloat16", "float32", WeightPlan())
FLOAT32 = Precision("float32", "float32", "float32", WeightPlan())
MB = 1e6


@pytest.fixture(scope="module")
def builtin() -> ModelDirectory:
    return ModelDirectory.open(builtin_model_dir())


@pytest.mark.parametrize("kind", ["none", "int8", "int4"])
def test_the_language_models_weights(builtin, kind):
    plan = WeightPlan(kind)
    make_matrix = matrix_maker(plan, dtype=torch.float32, device=torch.device("cpu"))
    lm = builtin.load_llm(make_matrix=make_matrix)
    shapes = {key: tuple(value.shape) for key, value in torch.load(builtin.llm_path, weights_only=True).items()}
    others = sum(parameter.nbytes for name, parameter in lm.named_parameters() if ".layers." not in f".{name}")
    expected = weight_memory(lm).num_bytes + others
    precision = Precision("float32", "float32", "float32", plan)
    assert llm_weight_bytes(shapes, precision) == pytest.approx(expected, rel=0.02)


def test_a_token_in_the_kv_cache():
    assert kv_token_bytes(PUBLISHED_BACKBONE, BFLOAT16) == 12_288
    int8 = kv_token_bytes(PUBLISHED_BACKBONE, Precision("bfloat16", "bfloat16", "float32", WeightPlan(), kv_int8=True))
    assert int8 == 24 * slot_width(4, 64, torch.int8)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("steps", [2, 10])
def test_a_page_of_the_flow(layout, steps):
    shapes = {key: tuple(value.shape) for key, value in load_file(str(GOLDEN / layout / "flow.safetensors")).items()}
    pool = PagePool(tiny_flow(layout), 0, steps=steps)
    assert flow_page_bytes(shapes, 2 * CHUNK, steps, 4) == pytest.approx(pool.page_bytes, rel=0.03)
    net = tiny_flow(layout)
    pool = PagePool(net, 0, steps=steps, is_int8=True)
    heads = net.estimator.attention_heads
    assert flow_page_bytes(shapes, 2 * CHUNK, steps, 4, heads) == pytest.approx(pool.page_bytes, rel=0.05)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_vocoder_stream_carries(layout):
    config = json.loads((GOLDEN / layout / "config.json").read_text())["hift"]
    vocoder = VocoderGraphs(tiny_vocoder(layout), PLAIN_KERNELS, slots=1, records=False)
    assert vocoder_stream_bytes(config) == pytest.approx(vocoder._pool.num_bytes / 2, rel=0.25)


def test_the_published_models():
    one, other = (sizes_of_family(name, BFLOAT16, steps=10) for name in ("cosyvoice2", "cosyvoice3"))
    assert one.flow_page == pytest.approx(115 * MB, rel=0.02)  # of one second
    assert other.flow_page == pytest.approx(92.6 * MB, rel=0.02)
    int8 = replace(BFLOAT16, flow_states_int8=True)
    assert sizes_of_family("cosyvoice2", int8, steps=10).flow_page == pytest.approx(61.5 * MB, rel=0.02)
    assert sizes_of_family("cosyvoice3", int8, steps=10).flow_page == pytest.approx(50.5 * MB, rel=0.02)
    for sizes in (one, other):
        assert sizes.flow_page_s == 1.0
        assert sizes.llm_weights == pytest.approx(1036 * MB, rel=0.01)


def test_float32_weighs_twice_and_four_bits_less(builtin):
    full, half = (sizes_of_directory(builtin, precision, steps=10) for precision in (FLOAT32, BFLOAT16))
    int4 = sizes_of_directory(builtin, Precision("bfloat16", "bfloat16", "float32", WeightPlan("int4")), steps=10)
    assert 1.5 * half.llm_weights < full.llm_weights <= 2 * half.llm_weights
    assert int4.llm_weights < half.llm_weights
    assert full.flow_page == 2 * half.flow_page


def test_an_unknown_family_is_refused():
    with pytest.raises(CheckpointError, match="There is no model family 'other'"):
        sizes_of_family("other", BFLOAT16, steps=10)
