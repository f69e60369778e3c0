from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from light_tts.errors import CheckpointError
from light_tts.models.nets.context import PlainContext
from light_tts.models.nets.dense import Conv, Dense, mish
from light_tts.models.nets.flow_net import MAX_FRAMES, build_dit_flow, build_unet_flow, noise_table

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
LAYOUTS = {"cosyvoice2_tiny": build_unet_flow, "cosyvoice3_tiny": build_dit_flow}
layouts = pytest.mark.parametrize("layout", list(LAYOUTS))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def golden(layout: str):
    return json.loads((GOLDEN / layout / "config.json").read_text())["flow"], load_file(
        str(GOLDEN / layout / "flow.safetensors")
    )


def test_the_noise_is_the_published_table_and_leaves_the_global_generator_alone() -> None:
    noise_table.cache_clear()
    before = torch.random.get_rng_state()
    noise = noise_table().T
    assert torch.equal(torch.random.get_rng_state(), before)
    assert noise.shape == (80, MAX_FRAMES)
    expected = torch.tensor([-1.1258398, -1.1523602, -0.2505786, -0.4338792])
    torch.testing.assert_close(noise[0, :4], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(noise[79, -2:], torch.tensor([-0.9826010, -0.0832944]), atol=1e-6, rtol=0)


@layouts
def test_a_wrong_state_dict_is_named(layout: str) -> None:
    config, state = golden(layout)
    build = LAYOUTS[layout]
    missing = dict(state)
    del missing["spk_embed_affine_layer.bias"]
    with pytest.raises(CheckpointError, match=r"missing keys: spk_embed_affine_layer\.bias"):
        build(config, missing)
    with pytest.raises(CheckpointError, match=r"unexpected keys: stranger"):
        build(config, {**state, "stranger": torch.zeros(1)})
    other = next(build for name, build in LAYOUTS.items() if name != layout)
    with pytest.raises(CheckpointError, match=r"does not belong to this model"):
        other(golden(next(name for name in LAYOUTS if name != layout))[0], state)


@layouts
def test_chunk_sizes_that_do_not_go_together_are_refused(layout: str) -> None:
    config, state = golden(layout)
    config["decoder"]["estimator"]["static_chunk_size"] = 51
    with pytest.raises(CheckpointError, match="chunk sizes"):
        LAYOUTS[layout](config, state)


@layouts
def test_half_precision_matrices_stay_close_to_float32(layout: str) -> None:
    config, state = golden(layout)
    generator = torch.Generator().manual_seed(0)
    frames = 30
    x, mu, cond = (torch.randn(2, frames, 80, generator=generator) for _ in range(3))
    outputs = []
    for dtype in (torch.float32, torch.bfloat16):
        net = LAYOUTS[layout](config, state, dtype=dtype)
        with torch.inference_mode():
            static = net.estimator.static_inputs(mu, torch.zeros(2, 80), cond)
            context = PlainContext([frames, 22], chunk=10, dtype=dtype)
            outputs.append(net.estimator(x, static, net.time_table(10)[4:5], context)[1, :22])
    assert outputs[1].dtype == torch.float32
    difference = float((outputs[1] - outputs[0]).abs().max())
    assert 0.0 < difference < 0.05 * float(outputs[0].abs().max())


@layouts
def test_the_time_table_is_the_explicit_times(layout: str) -> None:
    config, state = golden(layout)
    net = LAYOUTS[layout](config, state)
    times = torch.tensor([0.0, 0.0489434838, 0.1909830056, 0.4122147477, 0.6909830056])
    with torch.inference_mode():
        torch.testing.assert_close(net.time_table(5), net.estimator.condition_time(times), atol=1e-5, rtol=1e-5)
    assert net.time_table(5) is net.time_table(5)


ACTIVATIONS = {
    "none": lambda x: x,
    "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": lambda x: x * torch.sigmoid(x),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
}


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_product_is_that_of_each_row_with_bias_and_activation(activation, has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(33, 20, generator=generator)
    bias = torch.randn(33, generator=generator) if has_bias else None
    dense = Dense(weight, bias, dtype=torch.float32, device="cpu", activation=activation)
    for shape in ((1, 1, 20), (3, 7, 20), (500, 20)):
        x = torch.randn(*shape, generator=generator)
        expected = ACTIVATIONS[activation]((x[..., None, :] * weight).sum(-1) + (0 if bias is None else bias))
        with torch.inference_mode():
            torch.testing.assert_close(dense(x), expected, atol=2e-5, rtol=1e-5)


def test_the_convolution_as_a_product_equals_the_convolution() -> None:
    generator = torch.Generator().manual_seed(2)
    conv = Conv(6, 9, 4)
    weight, bias = torch.randn(9, 6, 4, generator=generator), torch.randn(9, generator=generator)
    conv.load_state_dict({"weight": weight, "bias": bias})
    conv.prepare(torch.float32, "cpu")
    x = torch.randn(2, 15, 6, generator=generator)
    with torch.inference_mode():
        torch.testing.assert_close(conv(x), F.conv1d(x.mT, weight, bias).mT, atol=1e-5, rtol=1e-5)


def test_mish_equals_the_built_in_everywhere() -> None:
    x = torch.linspace(-100.0, 100.0, 20_001)
    torch.testing.assert_close(mish(x), F.mish(x), atol=2e-6, rtol=2e-6)


def plain_attention(qkv: torch.Tensor, heads: int, visible: torch.Tensor) -> torch.Tensor:
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    scores = query @ key.mT / query.shape[-1] ** 0.5
    out = scores.masked_fill(~visible[:, None], float("-inf")).softmax(-1) @ value
    return out.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("lengths", [[12, 12], [12, 5], [12, 10]])
@pytest.mark.parametrize("chunk", [0, 5, 12, 50])
def test_a_step_sees_its_chunk_and_all_before_and_no_padding(lengths: list[int], chunk: int) -> None:
    qkv = torch.randn(2, 12, 3 * 8, generator=torch.Generator().manual_seed(3))
    steps = torch.arange(12)
    visible = (steps < torch.tensor(lengths)[:, None])[:, None, :].expand(-1, 12, -1).clone()
    if chunk:
        visible &= steps < ((steps // chunk + 1) * chunk)[:, None]
    actual = PlainContext(lengths, chunk=chunk).attend(0, qkv, heads=2)
    expected = plain_attention(qkv, 2, visible)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(actual[row, :length], expected[row, :length], atol=1e-5, rtol=1e-5)
