"""Products with norm, activation and residual: the Triton versions agree with the plain ones."""

import pytest
import torch

from light_tts.kernels.flow_linear import gated_norm_plain, linear_residual_plain, norm_linear_plain

DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 1e-2)])
HALVES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
# Rows, inputs, outputs: of a real block, of a tiny one, and off every tile.
SHAPES = pytest.mark.parametrize("shape", [(100, 256, 192), (7, 32, 48), (1, 100, 80), (150, 64, 130)], ids=str)


def random_parts(shape, dtype, device):
    generator = torch.Generator().manual_seed(sum(shape))
    rows, inputs, outputs = shape

    def draw(*sizes):
        return torch.randn(*sizes, generator=generator)

    x = (3.0 + 2.0 * draw(rows, inputs)).to(device)
    norm = (1.0 + 0.1 * draw(inputs)).to(device), draw(inputs).to(device), 1e-5
    matrix = (draw(outputs, inputs) * inputs**-0.5).to(device, dtype)
    return x, norm, matrix, draw(outputs).to(device, dtype), draw(rows, outputs).to(device)


def check(found, expected, dtype, tolerance):
    assert found.dtype == dtype
    assert found.shape == expected.shape
    assert found.isfinite().all()
    assert ((found.double() - expected.double()).norm() / expected.double().norm()).item() < tolerance


def skip_interpreted_bfloat16(device, dtype):
    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies the bits of bfloat16 matrices")


@SHAPES
@DTYPES
@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
def test_a_product_after_a_norm(device, shape, dtype, tolerance, activation, x_dtype):
    from light_tts.kernels.flow_linear_triton import norm_linear

    skip_interpreted_bfloat16(device, dtype)
    x, norm, matrix, bias, _ = random_parts(shape, dtype, device)
    x = x.to(x_dtype)
    for given in (bias, None):
        expected = norm_linear_plain(x, norm, matrix.float(), None if given is None else given.float(), activation)
        check(norm_linear(x, norm, matrix, given, activation), expected, dtype, tolerance)


@SHAPES
@DTYPES
def test_a_product_before_a_residual(device, shape, dtype, tolerance):
    from light_tts.kernels.flow_linear_triton import linear_residual

    skip_interpreted_bfloat16(device, dtype)
    x, _, matrix, bias, residual = random_parts(shape, dtype, device)
    x = x.to(dtype)
    for given in (residual, None):
        expected = linear_residual_plain(x.float(), matrix.float(), bias.float(), given)
        check(linear_residual(x, matrix, bias, given), expected, torch.float32, tolerance)


@HALVES
@pytest.mark.parametrize("shape", [(37, 256, 192), (7, 32, 48), (150, 64, 130)], ids=str)
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_a_product_of_few_rows_after_a_norm(device, shape, dtype, tolerance, activation):
    """In 16 bits, with weights that registers hold."""
    from light_tts.kernels import flow_linear_triton

    skip_interpreted_bfloat16(device, dtype)
    x, norm, matrix, bias, _ = random_parts(shape, dtype, device)
    assert flow_linear_triton.takes_norm_linear(len(x), matrix)
    for given in (bias, None):
        expected = norm_linear_plain(x, norm, matrix.float(), None if given is None else given.float(), activation)
        check(flow_linear_triton.norm_linear(x, norm, matrix, given, activation), expected, dtype, tolerance)


@HALVES
@pytest.mark.parametrize("shape", [(100, 1024, 40), (129, 1024, 16), (17, 1280, 33)], ids=str)
def test_many_inputs_before_a_residual(device, shape, dtype, tolerance):
    """Of few rows in 16 bits they are shared among warps."""
    from light_tts.kernels.flow_linear_triton import linear_residual

    skip_interpreted_bfloat16(device, dtype)
    x, _, matrix, bias, residual = random_parts(shape, dtype, device)
    for given in (residual, None):
        expected = linear_residual_plain(x.to(dtype).float(), matrix.float(), bias.float(), given)
        check(linear_residual(x.to(dtype), matrix, bias, given), expected, torch.float32, tolerance)


@pytest.mark.parametrize("rows", [129, 351, 800, 3200])
def test_every_tile_size_covers_its_rows(device, rows):
    from light_tts.kernels.flow_linear_triton import linear_residual, norm_linear

    x, norm, matrix, bias, residual = random_parts((rows, 32, 80), torch.float32, device)
    check(norm_linear(x, norm, matrix, bias), norm_linear_plain(x, norm, matrix, bias), torch.float32, 2e-5)
    expected = linear_residual_plain(x, matrix, bias, residual)
    check(linear_residual(x, matrix, bias, residual), expected, torch.float32, 2e-5)


@DTYPES
@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("width", [80, 1024])
def test_norm_and_product_apart_where_there_are_many_rows(device, dtype, tolerance, activation, width):
    from light_tts.kernels.flow_linear_triton import FUSED_ROWS, norm_linear

    x, norm, matrix, bias, _ = random_parts((FUSED_ROWS + 3, width, 48), dtype, device)
    for given in (bias, None):
        expected = norm_linear_plain(x, norm, matrix.float(), None if given is None else given.float(), activation)
        check(norm_linear(x, norm, matrix, given, activation), expected, dtype, tolerance)


@pytest.mark.parametrize("shape", [(5, 1024), (3, 64), (2, 100)], ids=str)
@DTYPES
@pytest.mark.parametrize("has_update", [True, False])
def test_a_gated_residual_and_its_norm(device, shape, dtype, tolerance, has_update):
    from light_tts.kernels.flow_linear_triton import gated_norm

    generator = torch.Generator().manual_seed(1)
    h, update = (torch.randn(shape, generator=generator) * 3 + 1 for _ in range(2))
    gate, scale, shift = (torch.randn(shape[1], generator=generator).to(device) for _ in range(3))
    h, update = h.to(device), update.to(device, dtype) if has_update else None
    stream, normed = gated_norm_plain(h.clone(), update, gate, scale, shift, 1e-6, torch.float32)
    found_stream, found = gated_norm(h, update, gate, scale, shift, 1e-6, dtype)
    check(found_stream, stream, torch.float32, 1e-6)
    check(found, normed, dtype, tolerance)
