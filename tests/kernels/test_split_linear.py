"""Products of a few dozen rows, and the norm that adds up what they leave in parts."""

import pytest
import torch

from light_tts.kernels.split_linear import add_norm_plain, gated_plain, linear_plain, parts_plain
from tests.kernels.test_one_row_linear import difference, numbers, weight_of

DTYPES = [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)]
FULL_SIZES = [pytest.param((896, 1152), marks=pytest.mark.gpu), pytest.param((4864, 896), marks=pytest.mark.gpu)]
SIZES = [(224, 160), (100, 36), *FULL_SIZES]
ROWS = [2, 5, 16, 40, pytest.param(128, marks=pytest.mark.gpu)]


@pytest.fixture
def linear(device):
    from light_tts.kernels.split_linear_triton import SplitLinear

    return SplitLinear()


@pytest.fixture(params=DTYPES, ids=lambda item: str(item[0]))
def kind(request, device):
    if device == "cpu" and request.param[0] == torch.bfloat16:
        pytest.skip("the interpreter multiplies the bits of bfloat16 matrices")
    return request.param


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_product_agrees_with_the_plain_version(device, linear, kind, sizes, num_rows, has_bias):
    dtype, tolerance = kind
    rows, weight = numbers(num_rows, sizes[0], device=device, dtype=dtype), weight_of(*sizes, device, dtype)
    bias = numbers(sizes[1], device=device, dtype=dtype) if has_bias else None
    assert difference(linear.linear(rows, weight, bias), linear_plain(rows, weight, bias)) < tolerance


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_product_and_gate_agree_with_the_plain_version(device, linear, kind, sizes, num_rows):
    dtype, tolerance = kind
    rows, weight = numbers(num_rows, sizes[0], device=device, dtype=dtype), weight_of(*sizes, device, dtype)
    assert difference(linear.gated(rows, weight), gated_plain(rows, weight)) < tolerance


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize("sizes", [*SIZES, (2100, 30)], ids=str)
def test_parts_add_up_to_the_product(device, linear, kind, sizes, num_rows):
    dtype, tolerance = kind
    rows, weight = numbers(num_rows, sizes[0], device=device, dtype=dtype), weight_of(*sizes, device, dtype)
    parts = linear.parts(rows, weight)
    assert parts.dtype == torch.float32
    assert difference(parts.sum(dim=0), parts_plain(rows, weight).sum(dim=0)) < tolerance


@pytest.mark.parametrize("num_parts", [1, 3, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("normed_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_norm_adds_what_is_left_in_parts(device, linear, num_parts, dtype, normed_dtype):
    total = numbers(5, 100, device=device, dtype=dtype)
    parts = numbers(num_parts, 5, 100, device=device, dtype=torch.float32)
    norm = numbers(100, device=device, dtype=torch.float32, scale=0.1) + 1
    expected_total = total.clone()
    expected = add_norm_plain(expected_total, parts, norm, 1e-6, normed_dtype)
    found = linear.add_norm(total, parts, norm, 1e-6, normed_dtype)
    assert found.dtype == normed_dtype
    # The interpreter cuts bits off where a GPU rounds.
    assert difference(total, expected_total) < (1e-6 if dtype == torch.float32 else 8e-3)
    assert difference(found, expected) < (1e-6 if dtype == normed_dtype == torch.float32 else 1.5e-2)


def test_what_is_no_number_stays_in_its_row(device, linear):
    rows = numbers(3, 128, device=device, dtype=torch.float32)
    rows[1, 5] = float("nan")
    weight = weight_of(128, 64, device, torch.float32)
    total = torch.zeros(3, 64, device=device)
    normed = linear.add_norm(total, linear.parts(rows, weight), torch.ones(64, device=device), 1e-6, torch.float32)
    for found in (linear.linear(rows, weight, None), linear.gated(rows, weight), total, normed):
        assert found.isnan().all(dim=1).tolist() == [False, True, False]
        assert found.isnan().any(dim=1).tolist() == [False, True, False]


def test_products_with_many_inputs_and_few_outputs_are_shared():
    pytest.importorskip("triton")
    from light_tts.kernels.split_linear_triton import parts_tiling

    assert parts_tiling(8, 4864, torch.bfloat16).splits > parts_tiling(8, 896, torch.bfloat16).splits
    assert parts_tiling(8, 100, torch.bfloat16).splits == 1
