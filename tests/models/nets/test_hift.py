"""The vocoder network against recorded stages, and how its weights are read."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from light_tts.errors import CheckpointError
from light_tts.models.nets.hift import build_hift
from light_tts.verify.report import Ledger
from light_tts.verify.vocoder_checks import STAGES, check_vocoder

GOLDEN = Path(__file__).parents[2] / "golden"
MODELS = {"cosyvoice2_tiny": False, "cosyvoice3_tiny": True}


@pytest.fixture(scope="module", params=MODELS, ids=["symmetric", "causal"])
def recorded(request):
    directory = GOLDEN / request.param
    config = json.loads((directory / "config.json").read_text())
    return config, load_file(str(directory / "hift.safetensors")), MODELS[request.param]


@pytest.mark.parametrize("model", MODELS)
def test_every_recorded_stage_is_reproduced(model):
    directory = GOLDEN / model
    ledger = Ledger(directory)
    check_vocoder(ledger, json.loads((directory / "config.json").read_text()))
    misses = [row for row in ledger.rows if not row.ok]
    assert not misses
    unread = [row.name for row in ledger.finish() if row.name.startswith(STAGES) and row.note == "tensor not checked"]
    assert not unread


def test_the_generators_graph_computes_what_its_modules_compute_at_any_size(recorded):
    config, state, is_causal = recorded
    net, calls = build_hift(config["hift"], state, is_causal=is_causal), []
    net.generator.register_forward_hook(lambda *_: calls.append(1))
    for rows, frames in ((1, 9), (2, 30), (1, 5)):
        mel, source = torch.randn(rows, 80, frames) - 5.0, torch.randn(rows, 1, 480 * frames) / 10
        actual = net.generate(mel, source, by_graph=True)
        torch.testing.assert_close(actual, net.generate(mel, source), rtol=0, atol=1e-6)
    assert len(calls) == 1 + 3  # one while the graph was made, one for each comparison


def test_both_spellings_of_weight_norm_give_the_same_weights(recorded):
    config, state, is_causal = recorded
    classic = {
        "generator."
        + key.replace(".parametrizations.weight.original0", ".weight_g").replace(
            ".parametrizations.weight.original1", ".weight_v"
        ): value
        for key, value in state.items()
    }
    assert classic.keys() != state.keys()
    one = build_hift(config["hift"], state, is_causal=is_causal)
    other = build_hift(config["hift"], classic, is_causal=is_causal)
    for (name, left), (_, right) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(left, right), name


def test_half_precision_files_are_widened(recorded):
    config, state, is_causal = recorded
    net = build_hift(config["hift"], {key: value.half() for key, value in state.items()}, is_causal=is_causal)
    assert net.generator.conv_post.weight.dtype == torch.float32
    assert net.m_source.l_linear.weight.dtype == torch.float32
    pitch_dtype = torch.float64 if is_causal else torch.float32
    assert net.f0_predictor.classifier.weight.dtype == pitch_dtype


def test_reduced_precision_touches_the_generator_only(recorded):
    config, state, is_causal = recorded
    mel = load_file(str(GOLDEN / "cosyvoice2_tiny" / STAGES))["mel"]
    full = build_hift(config["hift"], state, is_causal=is_causal, f0_dtype=torch.float32)
    half = build_hift(config["hift"], state, is_causal=is_causal, f0_dtype=torch.float32, dtype=torch.bfloat16)
    assert torch.equal(full.f0(mel), half.f0(mel))
    source = full.source(full.f0(mel), torch.zeros(1, mel.shape[2] * 480, 9))
    expected, actual = full.generate(mel, source), half.generate(mel, source)
    assert actual.dtype == torch.float32
    assert 0 < (expected - actual).abs().max() < 0.1


def test_a_missing_tensor_is_named(recorded):
    config, state, is_causal = recorded
    lacking = {key: value for key, value in state.items() if key != "conv_post.bias"}
    with pytest.raises(CheckpointError, match=r"conv_post\.bias"):
        build_hift(config["hift"], lacking, is_causal=is_causal)


def test_a_magnitude_without_direction_is_named(recorded):
    config, state, is_causal = recorded
    lacking = {key: value for key, value in state.items() if key != "conv_pre.parametrizations.weight.original1"}
    with pytest.raises(CheckpointError, match=r"conv_pre\.weight.*original0"):
        build_hift(config["hift"], lacking, is_causal=is_causal)


def test_weights_of_the_other_kind_do_not_load(recorded):
    config, state, is_causal = recorded
    with pytest.raises(CheckpointError, match="wrong shapes"):
        build_hift(config["hift"], state, is_causal=not is_causal)


def test_channels_are_those_of_the_config(recorded):
    config, state, is_causal = recorded
    with pytest.raises(CheckpointError, match="wrong shapes"):
        build_hift(config["hift"] | {"base_channels": 64}, state, is_causal=is_causal)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"istft_params": {"n_fft": 16, "hop_len": 8}}, "n_fft"),
        ({"upsample_kernel_sizes": [16, 11]}, "one kernel"),
        ({"upsample_kernel_sizes": [16, 11, 6]}, "even number"),
        ({"f0_predictor": {}}, "cond_channels"),
    ],
)
def test_a_config_the_network_cannot_have_is_refused(recorded, change, named):
    config, state, is_causal = recorded
    with pytest.raises(CheckpointError, match=named):
        build_hift(config["hift"] | change, state, is_causal=is_causal)


def test_a_missing_config_value_is_named(recorded):
    config, state, is_causal = recorded
    lacking = {key: value for key, value in config["hift"].items() if key != "nsf_alpha"}
    with pytest.raises(CheckpointError, match="nsf_alpha"):
        build_hift(lacking, state, is_causal=is_causal)
