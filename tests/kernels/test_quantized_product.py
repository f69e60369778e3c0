"""Matrices in fewer bits: what rounding does to them, and that the Triton products agree with the plain one."""

import pytest
import torch

from light_tts.kernels.fp8_product import (
    fits_fp8_product,
    fp8_product,
    fp8_product_plain,
    round_rows_plain,
    why_no_fp8_product,
)
from light_tts.kernels.quantized_weights import Around, dequantize, product_plain, quantize
from light_tts.kernels.small_linear import norm_gated_plain, norm_linear_plain

KINDS = ("int8", "int4", "fp8")
# Largest share of a normal matrix that rounding takes away.
LARGEST_LOSS = {"int8": 0.009, "int4": 0.105, "fp8": 0.028}


def normal(*shape, seed=0, scale=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def loss(found, expected):
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(64, 896), (48, 224), (16, 100), (3, 7)])
@pytest.mark.parametrize("scale", [1e-12, 0.02, 1e4])
def test_rounding_loses_as_little_as_the_format_allows(kind, shape, scale):
    weights = normal(*shape, scale=scale)
    rounded = dequantize(quantize(weights, kind))
    assert rounded.shape == shape
    assert loss(rounded, weights) < LARGEST_LOSS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_and_outliers_keep_to_their_output(kind):
    weights = normal(8, 256)
    weights[0] = 0.0
    weights[1, 3] = 1e4
    rounded = dequantize(quantize(weights, kind))
    assert rounded[0].abs().max() == 0.0
    assert rounded[1, 3] == pytest.approx(1e4, rel=1e-6)
    assert loss(rounded[2:], weights[2:]) < LARGEST_LOSS[kind]


def test_an_outlier_costs_int4_its_group_alone():
    weights = normal(64, 512)
    weights[:, 130] = 100.0
    rounded = dequantize(quantize(weights, "int4"))
    other = [*range(128), *range(256, 512)]
    assert loss(rounded[:, other], weights[:, other]) < LARGEST_LOSS["int4"]


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("int4", 4), ("fp8", 8)])
def test_bytes_are_those_of_codes_and_scales(kind, bits):
    outputs, inputs = 1152, 896
    num_scales = outputs * (inputs // 128 if kind == "int4" else 1)
    assert quantize(normal(outputs, inputs), kind).num_bytes == outputs * inputs * bits // 8 + 4 * num_scales


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("has_base", [False, True])
def test_the_plain_product_is_one_with_the_rounded_matrix(kind, has_base):
    weights = quantize(normal(48, 200, seed=1), kind)
    rows, base = normal(5, 200, seed=2), normal(5, 48, seed=3) if has_base else None
    expected = rows.double() @ dequantize(weights).double().t() + (0.0 if base is None else base)
    assert loss(product_plain(rows, weights, base), expected) < 1e-6


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=str)
def dtype(request, device):
    if device == "cpu" and request.param == torch.bfloat16:
        pytest.skip("the interpreter multiplies the bits of bfloat16 matrices")
    return request.param


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("num_rows", "shape"),
    [(1, (18, 300)), (2, (8, 128)), (3, (20, 1000)), (17, (50, 300)), (40, (34, 128)), (70, (66, 140))],
    ids=str,
)
def test_the_kernels_agree_with_the_plain_product(device, dtype, kind, num_rows, shape):
    from light_tts.kernels.quantized_product_triton import QuantizedProduct

    weights = quantize(normal(*shape, seed=4), kind).to(device)
    product = QuantizedProduct(weights)
    rows = normal(num_rows, shape[1], seed=5).to(device, dtype)
    bias = normal(shape[0], seed=6).to(device, dtype)
    total = normal(num_rows, shape[0], seed=7).to(device, dtype)
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    for base in (None, bias, total):  # the counters must be back at zero each time
        expected = product_plain(rows, weights, base)
        assert loss(product(rows, base), expected) < tolerance
    result = product(rows, total, in_place=True)
    assert result.data_ptr() == total.data_ptr()
    assert loss(result, expected) < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_full_size_matrices_on_a_gpu(device, kind):
    if device == "cpu":
        pytest.skip("takes minutes in the interpreter")
    from light_tts.kernels.quantized_product_triton import QuantizedProduct

    for inputs, outputs in ((896, 1152), (896, 9728), (4864, 896)):
        weights = quantize(normal(outputs, inputs, seed=8).to(device), kind)
        product = QuantizedProduct(weights)
        for num_rows in (1, 2, 4, 16, 24, 64, 100, 256, 700, 4096):
            rows = normal(num_rows, inputs, seed=9).to(device, torch.bfloat16)
            assert loss(product(rows), product_plain(rows, weights)) < 8e-3


@pytest.mark.parametrize("num_rows", [1, 5])
def test_rows_of_a_longer_row_are_read_where_they_are(device, num_rows):
    from light_tts.kernels.quantized_product_triton import QuantizedProduct

    weights = quantize(normal(32, 128, seed=4), "int8").to(device)
    wide = normal(num_rows, 300, seed=5).to(device)
    rows = wide[:, 60:188]
    assert loss(QuantizedProduct(weights)(rows), product_plain(rows, weights)) < 1e-5


def test_few_tiles_are_cut_into_many_parts_and_many_into_none():
    pytest.importorskip("triton")
    from light_tts.kernels.quantized_tiles_triton import num_splits

    assert [num_splits(tiles, 38) for tiles in (1, 28, 64, 128, 129, 400)] == [8, 8, 4, 2, 1, 1]
    assert [num_splits(1, steps) for steps in (1, 2, 4, 7)] == [1, 1, 2, 2]


def test_rows_are_rounded_each_by_itself():
    rows = normal(5, 300, seed=5)
    rows[2] *= 1e5
    rows[3] = 0.0
    codes, scales = round_rows_plain(rows)
    rounded = codes.float() * scales
    assert all(loss(rounded[index], rows[index]) < 0.033 for index in (0, 1, 2, 4))
    assert not rounded[3].any()
    alone, _ = round_rows_plain(rows[1:2])
    assert torch.equal(alone.float(), codes[1:2].float())


def test_a_product_of_rounded_rows_is_near_the_one_of_rows():
    weights = quantize(normal(48, 256, seed=1), "fp8")
    rows, base = normal(5, 256, seed=2), normal(48, seed=3)
    assert 0.0 < loss(fp8_product_plain(rows, weights, base), product_plain(rows, weights, base)) < 0.04


def test_a_processor_multiplies_no_fp8():
    assert why_no_fp8_product(torch.device("cpu")) == "it is no GPU"
    assert not fits_fp8_product(quantize(normal(16, 16), "fp8"), torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.parametrize("has_base", [False, True])
@pytest.mark.parametrize("num_rows", [64, 100, 700])
def test_tensor_cores_agree_with_the_plain_product_of_rounded_rows(has_base, num_rows):
    from light_tts.kernels.fp8_rows_triton import round_rows

    if (reason := why_no_fp8_product(torch.device("cuda"))) is not None:
        pytest.skip(reason)
    weights = quantize(normal(1152, 896, seed=1).cuda(), "fp8")
    rows = normal(num_rows, 896, seed=2).cuda().bfloat16()
    rows[1] *= 300.0
    codes, scales = round_rows(rows)
    expected_codes, expected_scales = round_rows_plain(rows)
    assert torch.allclose(scales, expected_scales, rtol=1e-6)
    assert loss(codes.float(), expected_codes.float()) < 1e-3
    base = normal(num_rows, 1152, seed=3).cuda().bfloat16() if has_base else None
    expected = fp8_product_plain(rows, weights, base)
    found = fp8_product(rows, weights, base, round_rows, in_place=has_base)
    assert loss(found, expected) < 8e-3
    assert not has_base or found is base


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("num_rows", "shape"), [(1, (18, 300)), (2, (8, 600)), (3, (20, 200)), (40, (34, 130)), (70, (66, 70))], ids=str
)
def test_norm_and_gate_may_be_part_of_the_product(device, kind, num_rows, shape):
    from light_tts.kernels.quantized_product_triton import QuantizedProduct

    weights = quantize(normal(*shape, seed=4), kind).to(device)
    product = QuantizedProduct(weights)
    rows = normal(num_rows, shape[1], seed=5, scale=3.0).to(device)
    norm = 1.0 + 0.1 * normal(shape[1], seed=6).to(device)
    bias = normal(shape[0], seed=7).to(device)
    exact = dequantize(weights).t()
    expected = norm_linear_plain(rows, norm, 1e-6, exact, bias)
    assert loss(product(rows, bias, around=Around(norm, 1e-6)), expected) < 1e-5
    expected = norm_gated_plain(rows, norm, 1e-6, exact)
    found = product(rows, around=Around(norm, 1e-6, is_gated=True))
    assert found.shape == (num_rows, shape[0] // 2)
    assert loss(found, expected) < 1e-5
