"""The estimator behind the published interface: as a torch module, and as the graph that onnxruntime computes."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from light_tts.acoustic.onnx_export import INPUT_NAMES, OUTPUT_NAME, PublishedEstimator, export_estimator
from light_tts.errors import ConfigError
from light_tts.models.nets.flow_net import build_dit_flow, build_unet_flow

GOLDEN = Path(__file__).parents[1] / "golden"
LAYOUTS = {"cosyvoice2_tiny": build_unet_flow, "cosyvoice3_tiny": build_dit_flow}
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=LAYOUTS)
def case(request):
    """A tiny flow, and golden inputs and outputs of its estimator."""
    folder = GOLDEN / request.param
    config = json.loads((folder / "config.json").read_text())
    net = LAYOUTS[request.param](config["flow"], load_file(folder / "flow.safetensors"))
    return net, load_file(folder / "estimator.safetensors")


def inputs_of(stored, *, is_padded):
    mask = stored["mask_padded"] if is_padded else torch.ones_like(stored["mask_padded"])
    return {name: mask if name == "mask" else stored[name] for name in INPUT_NAMES}


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("attention", ["full", "stream"])
def test_the_published_interface_computes_the_published_velocity(case, attention, is_padded):
    net, stored = case
    inputs = inputs_of(stored, is_padded=is_padded)
    module = PublishedEstimator(net, chunk_frames=net.chunk_frames if attention == "stream" else 0)
    with torch.inference_mode():
        found = module(**inputs)
    expected = stored[f"padded_out_{attention}" if is_padded else f"out_{attention}"] * inputs["mask"]
    assert torch.allclose(found, expected, atol=TOLERANCE)


def test_the_network_itself_stays_as_it_was(case):
    net, stored = case
    before = {name: value.clone() for name, value in net.estimator.state_dict().items()}
    with torch.inference_mode():
        PublishedEstimator(net)(**inputs_of(stored, is_padded=False))
    assert all(torch.equal(value, before[name]) for name, value in net.estimator.state_dict().items())


@pytest.mark.slow
def test_onnxruntime_computes_the_same_at_any_length(case, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net, stored = case
    path = tmp_path / "estimator.onnx"
    export_estimator(net, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    shapes = {item.name: item.shape for item in session.get_inputs()}
    assert tuple(shapes) == INPUT_NAMES
    wide = {name: [2, 80, "seq_len"] for name in ("x", "mu", "cond")}
    assert shapes == wide | {"mask": [2, 1, "seq_len"], "t": [2], "spks": [2, 80]}
    assert [(item.name, item.shape) for item in session.get_outputs()] == [(OUTPUT_NAME, [2, 80, "seq_len"])]
    for is_padded in (False, True):
        inputs = inputs_of(stored, is_padded=is_padded)
        (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        expected = stored["padded_out_full" if is_padded else "out_full"] * inputs["mask"]
        assert torch.allclose(torch.from_numpy(found), expected, atol=TOLERANCE)
    for frames in (4, 300):
        generator = torch.Generator().manual_seed(frames)
        inputs = {name: torch.randn(2, 80, frames, generator=generator) for name in ("x", "mu", "cond")}
        inputs |= {"mask": torch.ones(2, 1, frames), "t": torch.tensor([0.1, 0.7]), "spks": stored["spks"]}
        (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        with torch.inference_mode():
            expected = PublishedEstimator(net)(**inputs)
        assert torch.allclose(torch.from_numpy(found), expected, atol=TOLERANCE)


def test_a_missing_exporter_is_named(case, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"pip install 'light-tts\[onnx\]'"):
        export_estimator(case[0], tmp_path / "estimator.onnx")
