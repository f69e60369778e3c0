"""The speech-token network: loading, and the parts that the golden data do not reach."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from light_tts.errors import CheckpointError
from light_tts.models.nets.qwen2 import Qwen2Config, rms_norm, rotate_
from light_tts.models.nets.speech_lm import build_speech_lm
from light_tts.verify.llm_golden import Forward, read_speech_ids

GOLDEN = Path(__file__).parents[2] / "golden" / "llm_tiny"
HEAD, SPEECH = "llm_decoder.weight", "speech_embedding.weight"


@pytest.fixture(params=["cosyvoice2", "cosyvoice3"])
def parts(request):
    """backbone, state, ids of a tiny model."""
    config = json.loads((GOLDEN / request.param / "config.json").read_text())
    return config["qwen2"], load_file(GOLDEN / request.param / "llm.safetensors"), read_speech_ids(config)


def test_the_unused_text_head_and_training_counters_are_ignored(parts):
    backbone, state, ids = parts
    state.pop("llm.model.lm_head.weight", None)
    rows = [ids.sos_row, 1, 2, ids.task_row, ids.speech_row0]
    expected = Forward(build_speech_lm(backbone, state, ids)).logits(rows)
    state |= {"llm.model.lm_head.weight": torch.zeros(1), "epoch": 3, "step": 1000}
    assert torch.equal(Forward(build_speech_lm(backbone, state, ids)).logits(rows), expected)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("llm.model.model.layers.1.mlp.up_proj.weight"), "layers.1.mlp.up_proj.weight"),
        (lambda state: state.update({"llm.model.model.layers.2.mlp.up_proj.weight": torch.zeros(1)}), "layers.2"),
        (lambda state: state.update({HEAD: state[HEAD][:-1]}), HEAD),
        (lambda state: state.pop("llm.model.model.norm.weight"), "norm.weight"),
    ],
)
def test_a_wrong_file_is_refused_by_the_name_of_the_key(parts, change, named):
    backbone, state, ids = parts
    change(state)
    with pytest.raises(CheckpointError, match=named):
        build_speech_lm(backbone, state, ids)


@pytest.mark.parametrize("missing", ["hidden_size", "rope_theta", "num_key_value_heads"])
def test_an_incomplete_config_is_refused(parts, missing):
    backbone, _, _ = parts
    with pytest.raises(CheckpointError, match=missing):
        Qwen2Config.from_mapping({key: value for key, value in backbone.items() if key != missing})


def test_a_config_of_other_text_rows_is_refused(parts):
    backbone, state, ids = parts
    with pytest.raises(CheckpointError, match="text rows"):
        build_speech_lm(backbone | {"vocab_size": ids.speech_row0 + 1}, state, ids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_shared_with_the_speech_table_has_its_rows(parts, dtype):
    backbone, state, ids = parts
    state[HEAD] = state[SPEECH]
    lm = build_speech_lm(backbone, state, ids, dtype=dtype)
    row = torch.tensor([ids.speech_row0 + 7])
    assert torch.equal(lm.embed(row)[0].float(), lm.head[7].to(dtype).float())


def test_the_file_is_not_changed(parts):
    backbone, state, ids = parts
    before = {key: value.clone() for key, value in state.items()}
    lm = build_speech_lm(backbone, state, ids)
    Forward(lm).logits([ids.sos_row, 5, ids.task_row])
    assert all(torch.equal(state[key], before[key]) for key in before)


def test_lower_precision_stays_near(parts):
    backbone, state, ids = parts
    rows = [ids.sos_row, *range(20), ids.task_row, *range(ids.speech_row0, ids.speech_row0 + 10)]
    exact = Forward(build_speech_lm(backbone, state, ids)).logits(rows)
    rough = Forward(build_speech_lm(backbone, state, ids, dtype=torch.bfloat16)).logits(rows)
    assert rough.dtype == torch.float32
    # bfloat16 keeps eight bits; logits spread over several units.
    assert float((rough - exact).abs().max()) < 0.1 * float(exact.std())
    assert not torch.equal(rough, exact)


def test_rotation_depends_on_the_distance_alone():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 8, generator=generator)
    frequencies = 10.0 ** -torch.arange(4.0)

    def score(i, j):
        turned = []
        for vector, position in ((query, i), (key, j)):
            vector = vector.clone()
            angles = torch.tensor([[float(position)]]) * frequencies
            rotate_(vector, torch.polar(torch.ones_like(angles), angles)[:, None])
            turned.append(vector)
        return float((turned[0] * turned[1]).sum())

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)
    assert score(7, 3) != pytest.approx(score(8, 3), abs=1e-3)


def test_the_norm_is_computed_in_float32():
    hidden = torch.full((1, 64), 300.0, dtype=torch.float16)  # squares overflow float16
    assert torch.allclose(rms_norm(hidden, torch.ones(64), 1e-6), torch.ones(1, 64, dtype=torch.float16))
