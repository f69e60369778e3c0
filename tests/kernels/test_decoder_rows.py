"""Norm and gate: the Triton versions agree with the plain ones."""

import pytest
import torch

from light_tts.kernels.decoder_rows import rms_norm_plain, silu_mul_plain


@pytest.mark.parametrize("shape", [(1, 896), (5, 128), (64, 896), (3, 100)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_the_norm_agrees_with_the_plain_version(device, shape, dtype, tolerance):
    from light_tts.kernels.decoder_rows_triton import rms_norm

    generator = torch.Generator().manual_seed(1)
    hidden = (torch.randn(shape, generator=generator) * 3).to(device, dtype)
    weight = torch.rand(shape[1], generator=generator).to(device)
    expected = rms_norm_plain(hidden, weight, 1e-6)
    assert torch.allclose(rms_norm(hidden, weight, 1e-6).float(), expected.float(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(1, 4864), (5, 224), (64, 4864), (3, 1025)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_the_gate_agrees_with_the_plain_version(device, shape, dtype, tolerance):
    from light_tts.kernels.decoder_rows_triton import silu_mul

    gate_up = (torch.randn(shape[0], 2 * shape[1], generator=torch.Generator().manual_seed(2)) * 5).to(device, dtype)
    expected = silu_mul_plain(gate_up)
    assert torch.allclose(silu_mul(gate_up).float(), expected.float(), rtol=tolerance, atol=tolerance)


def test_what_is_no_number_stays_in_its_row(device):
    from light_tts.kernels.decoder_rows_triton import rms_norm, silu_mul

    hidden = torch.randn(3, 128, generator=torch.Generator().manual_seed(3)).to(device)
    hidden[1, 5] = float("nan")
    assert rms_norm(hidden, torch.ones(128, device=device), 1e-6).isnan().all(dim=1).tolist() == [False, True, False]
    assert silu_mul(hidden).isnan().sum(dim=1).tolist() == [0, 1, 0]
