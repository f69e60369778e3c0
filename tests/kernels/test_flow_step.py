"""An Euler step with guidance: both versions, against the formula."""

import pytest
import torch

from light_tts.kernels.flow_step import euler_step_plain

MEL_BINS, INPUTS = 80, 320


def run(step, device, dtype, sequences=3, frames=7):
    generator = torch.Generator().manual_seed(1)

    def draw(*sizes, kind=torch.float32):
        return torch.randn(*sizes, generator=generator).to(device, kind)

    x, velocity = draw(sequences, frames, MEL_BINS), draw(2 * sequences, frames, MEL_BINS)
    guidance, inputs = draw(sequences).abs(), draw(2 * sequences, frames, INPUTS, kind=dtype)
    expected = x + 0.25 * (
        (1 + guidance[:, None, None]) * velocity[:sequences] - guidance[:, None, None] * velocity[sequences:]
    )
    rest = inputs[..., MEL_BINS:].clone()
    step(x, velocity, guidance, torch.full((1,), 0.25, device=device), inputs)
    assert torch.allclose(x, expected, atol=1e-6)
    tolerance = 0.0 if dtype == torch.float32 else 1e-2  # the interpreter cuts off where a GPU rounds
    assert torch.allclose(inputs[..., :MEL_BINS].float(), x.repeat(2, 1, 1), rtol=tolerance, atol=0.0)
    assert torch.equal(inputs[..., MEL_BINS:], rest)


def test_the_plain_version_is_the_formula():
    run(euler_step_plain, "cpu", torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_is_the_formula(device, dtype):
    from light_tts.kernels.flow_step_triton import euler_step

    run(euler_step, device, dtype)
