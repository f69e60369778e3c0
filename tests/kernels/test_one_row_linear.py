"""Products of one row: one kernel gives what norm, product and sum give one after the other."""

import pytest
import torch

from light_tts.kernels.small_linear import linear_add_plain, norm_gated_plain, norm_linear_plain

DTYPES = [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)]
FULL_SIZES = [pytest.param((896, 1152), marks=pytest.mark.gpu), pytest.param((4864, 896), marks=pytest.mark.gpu)]
SIZES = [(224, 160), (100, 36), (2100, 30), *FULL_SIZES]


def numbers(*shape, device, dtype, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return (torch.randn(*shape, generator=generator) * scale).to(device, dtype)


def weight_of(num_inputs, num_outputs, device, dtype):
    return numbers(num_outputs, num_inputs, device=device, dtype=dtype, scale=num_inputs**-0.5).t()


def difference(found, expected):
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.fixture
def linear(device):
    from light_tts.kernels.one_row_linear_triton import OneRowLinear

    return OneRowLinear()


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
def test_norm_and_product_agree_with_the_plain_version(device, linear, dtype, tolerance, sizes, has_bias):
    hidden = numbers(1, sizes[0], device=device, dtype=dtype, scale=3.0)
    norm = numbers(sizes[0], device=device, dtype=torch.float32, scale=0.1) + 1
    bias = numbers(sizes[1], device=device, dtype=dtype) if has_bias else None
    arguments = hidden, norm, 1e-6, weight_of(*sizes, device, dtype), bias
    assert difference(linear.norm_linear(*arguments), norm_linear_plain(*arguments)) < tolerance


def test_the_head_is_computed_in_float32_from_a_state_of_any_dtype(device, linear):
    hidden = numbers(1, 224, device=device, dtype=torch.bfloat16)
    arguments = hidden, torch.ones(224, device=device), 1e-6, weight_of(224, 150, device, torch.float32), None
    found = linear.norm_linear(*arguments)
    assert found.dtype == torch.float32
    assert difference(found, norm_linear_plain(*arguments)) < 2e-5


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_norm_product_and_gate_agree_with_the_plain_version(device, linear, dtype, tolerance, sizes):
    hidden = numbers(1, sizes[0], device=device, dtype=dtype)
    norm = numbers(sizes[0], device=device, dtype=torch.float32, scale=0.1) + 1
    arguments = hidden, norm, 1e-6, weight_of(*sizes, device, dtype)
    assert difference(linear.norm_gated(*arguments), norm_gated_plain(*arguments)) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_product_and_sum_agree_with_the_plain_version(device, linear, dtype, tolerance, sizes):
    row = numbers(1, sizes[0], device=device, dtype=dtype)
    weight = weight_of(*sizes, device, dtype)
    total = numbers(1, sizes[1], device=device, dtype=dtype, seed=1)
    expected = linear_add_plain(total.clone(), row, weight)
    assert linear.linear_add(total, row, weight) is total
    assert difference(total, expected) < tolerance


def test_programs_hold_whole_rows_of_numbers():
    pytest.importorskip("triton")
    from light_tts.kernels.one_row_linear_triton import one_row_tiling

    for num_inputs, num_outputs in [(896, 1152), (100, 36), (4864, 896)]:
        tiling = one_row_tiling(num_inputs, num_outputs)
        assert tiling.inputs >= num_inputs
        assert tiling.outputs & (tiling.outputs - 1) == 0
