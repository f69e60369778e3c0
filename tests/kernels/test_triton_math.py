"""Functions that kernels share, against torch."""

import math

import pytest
import torch

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
triton_math = pytest.importorskip("light_tts.kernels.triton_math")
sin_pi_squared, sin_turns = triton_math.sin_pi_squared, triton_math.sin_turns


@triton.jit
def _sin_pi_squared_kernel(x, out, count, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + places, mask=places < count)
    tl.store(out + places, sin_pi_squared(values), mask=places < count)


def sin_pi_squared_of(x):
    out = torch.empty_like(x)
    _sin_pi_squared_kernel[(triton.cdiv(x.numel(), 1024),)](x, out, x.numel(), BLOCK=1024)
    return out


def expected_of(x):
    return (x.double() * math.pi).sin().square().float()


@pytest.mark.parametrize("largest", [4.0, 1000.0])
def test_the_square_of_a_sine_agrees_with_torch(largest, device):
    x = torch.linspace(-largest, largest, 20001, device=device)
    torch.testing.assert_close(sin_pi_squared_of(x), expected_of(x), atol=1e-6, rtol=0.0)


def test_the_square_of_a_small_sine_is_exact_in_proportion(device):
    x = torch.linspace(1e-6, 1e-3, 1000, device=device)
    torch.testing.assert_close(sin_pi_squared_of(x), expected_of(x), atol=0.0, rtol=2e-5)


@triton.jit
def _sin_turns_kernel(x, out, count, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + places, mask=places < count)
    tl.store(out + places, sin_turns(values), mask=places < count)


@pytest.mark.parametrize("largest", [1.5, 1000.0])
def test_the_sine_of_turns_agrees_with_torch(largest, device):
    x = torch.linspace(-largest, largest, 20001, device=device)
    out = torch.empty_like(x)
    _sin_turns_kernel[(triton.cdiv(x.numel(), 1024),)](x, out, x.numel(), BLOCK=1024)
    expected = (x.double() * (2.0 * math.pi)).sin().float()
    torch.testing.assert_close(out, expected, atol=3e-7, rtol=0.0)
