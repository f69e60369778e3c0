"""Products of few rows: one kernel gives what norm, product and sum give one after the other."""

import pytest
import torch

from light_tts.kernels.small_linear import linear_add_plain, norm_gated_plain, norm_linear_plain

DTYPES = [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)]
FULL_SIZES = [pytest.param((896, 1152), marks=pytest.mark.gpu), pytest.param((4864, 896), marks=pytest.mark.gpu)]
SIZES = [(224, 160), (100, 36), *FULL_SIZES]


def numbers(*shape, device, dtype, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return (torch.randn(*shape, generator=generator) * scale).to(device, dtype)


def weight_of(num_inputs, num_outputs, device, dtype):
    return numbers(num_outputs, num_inputs, device=device, dtype=dtype, scale=num_inputs**-0.5).t()


def difference(found, expected):
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.fixture
def linear(device):
    from light_tts.kernels.small_linear_triton import SmallLinear, SplitWorkspace

    return SmallLinear(SplitWorkspace(torch.device(device)))


@pytest.fixture(params=DTYPES, ids=lambda item: str(item[0]))
def kind(request, device):
    return request.param


def skip_if_interpreted(device, dtype, num_rows):
    if device == "cpu" and dtype == torch.bfloat16 and num_rows > 1:
        pytest.skip("the interpreter multiplies the bits of bfloat16 matrices")


@pytest.mark.parametrize("num_rows", [1, 2, 5, 16, 40])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
def test_norm_and_product_agree_with_the_plain_version(device, linear, kind, sizes, num_rows, has_bias):
    dtype, tolerance = kind
    skip_if_interpreted(device, dtype, num_rows)
    hidden = numbers(num_rows, sizes[0], device=device, dtype=dtype, scale=3.0)
    norm = numbers(sizes[0], device=device, dtype=torch.float32, scale=0.1) + 1
    bias = numbers(sizes[1], device=device, dtype=dtype) if has_bias else None
    arguments = hidden, norm, 1e-6, weight_of(*sizes, device, dtype), bias
    assert difference(linear.norm_linear(*arguments), norm_linear_plain(*arguments)) < tolerance


@pytest.mark.parametrize("num_rows", [1, 3, 16])
def test_the_head_is_computed_in_float32_from_states_of_any_dtype(device, linear, num_rows):
    hidden = numbers(num_rows, 224, device=device, dtype=torch.bfloat16)
    norm = torch.ones(224, device=device)
    arguments = hidden, norm, 1e-6, weight_of(224, 150, device, torch.float32), None
    found = linear.norm_linear(*arguments)
    assert found.dtype == torch.float32
    assert difference(found, norm_linear_plain(*arguments)) < 2e-5


@pytest.mark.parametrize("num_rows", [1, 4, 16, 70])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_norm_product_and_gate_agree_with_the_plain_version(device, linear, kind, sizes, num_rows):
    dtype, tolerance = kind
    skip_if_interpreted(device, dtype, num_rows)
    hidden = numbers(num_rows, sizes[0], device=device, dtype=dtype)
    norm = numbers(sizes[0], device=device, dtype=torch.float32, scale=0.1) + 1
    arguments = hidden, norm, 1e-6, weight_of(*sizes, device, dtype)
    assert difference(linear.norm_gated(*arguments), norm_gated_plain(*arguments)) < tolerance


@pytest.mark.parametrize("num_rows", [1, 2, 16, 70])
@pytest.mark.parametrize("sizes", [*SIZES, (2100, 30)], ids=str)
def test_product_and_sum_agree_with_the_plain_version(device, linear, kind, sizes, num_rows):
    """Twice, since programs that share a tile must leave their counters as they found them."""
    dtype, tolerance = kind
    skip_if_interpreted(device, dtype, num_rows)
    rows = numbers(num_rows, sizes[0], device=device, dtype=dtype)
    weight = weight_of(*sizes, device, dtype)
    total = numbers(num_rows, sizes[1], device=device, dtype=dtype, seed=1)
    expected = linear_add_plain(total.clone(), rows, weight)
    for _ in range(2):
        found = total.clone()
        assert linear.linear_add(found, rows, weight) is found
        assert difference(found, expected) < tolerance
    assert not linear._workspace.counters.any()


def test_what_is_no_number_stays_in_its_row(device, linear):
    hidden = numbers(3, 128, device=device, dtype=torch.float32)
    hidden[1, 5] = float("nan")
    weight = weight_of(128, 64, device, torch.float32)
    out = linear.norm_linear(hidden, torch.ones(128, device=device), 1e-6, weight, None)
    assert out.isnan().all(dim=1).tolist() == [False, True, False]
    assert out.isnan().any(dim=1).tolist() == [False, True, False]
    total = linear.linear_add(torch.zeros(3, 64, device=device), hidden, weight)
    assert total.isnan().any(dim=1).tolist() == [False, True, False]


def test_few_outputs_are_shared_and_many_are_not():
    pytest.importorskip("triton")
    from light_tts.kernels.small_linear_triton import one_row_tiling, rows_tiling

    assert rows_tiling(8, 4864, 896, torch.bfloat16, may_split=True).splits > 1
    assert rows_tiling(8, 4864, 896, torch.bfloat16, may_split=False).splits == 1
    assert rows_tiling(8, 896, 9728, torch.bfloat16, may_split=True).splits == 1
    for num_inputs, num_outputs in [(896, 1152), (100, 36), (4864, 896)]:
        tiling = one_row_tiling(num_inputs, num_outputs)
        assert tiling.inputs >= num_inputs
        assert tiling.outputs & (tiling.outputs - 1) == 0
