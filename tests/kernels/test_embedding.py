"""The beginning of a step: both versions look up the same rows and turn by the same angles."""

import pytest
import torch

from light_tts.kernels.embedding import EmbeddingTables, RowInputs, embed_plain

NUM_TEXT, NUM_CONTROL, NUM_SPEECH, WIDTH = 50, 2, 30, 96


def case_of(device, dtype):
    generator = torch.Generator().manual_seed(1)
    tables = EmbeddingTables(
        text=torch.randn(NUM_TEXT, WIDTH, generator=generator).to(device, dtype),
        speech=torch.randn(NUM_CONTROL + NUM_SPEECH, WIDTH, generator=generator).to(device),
        speech_row0=NUM_TEXT + NUM_CONTROL,
        inverse_frequencies=(1e6 ** -(torch.arange(16) / 16)).to(device),
    )
    inputs = RowInputs(
        rows=torch.tensor([0, NUM_TEXT - 1, NUM_TEXT, NUM_TEXT + 5, 3, 3, 3], device=device),
        sources=torch.tensor([-1, -1, -1, -1, 0, 1, 2], device=device),
        positions=torch.tensor([0, 1, 100, 8191, 5, 6, 7], device=device),
        drawn=torch.tensor([0, 29, -1], device=device),
    )
    return inputs, tables


def test_codes_just_drawn_stand_for_their_rows():
    inputs, tables = case_of("cpu", torch.float32)
    hidden, rotation = embed_plain(inputs, tables)
    joint = torch.cat([tables.text, tables.speech])
    first = tables.speech_row0
    assert torch.equal(hidden, joint[[0, NUM_TEXT - 1, NUM_TEXT, NUM_TEXT + 5, first, first + 29, first]])
    assert torch.allclose(rotation[3, :, 0], torch.cos(8191 * tables.inverse_frequencies), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_agrees_with_the_plain_version(device, dtype):
    from light_tts.kernels.embedding_triton import embed

    found, expected = embed(*case_of(device, dtype)), embed_plain(*case_of(device, dtype))
    # The interpreter rounds to bfloat16 by cutting off.
    tolerance = 0 if dtype == torch.float32 else 1e-2
    assert torch.allclose(found[0].float(), expected[0].float(), atol=0, rtol=tolerance)
    assert torch.allclose(found[1], expected[1], atol=1e-6)
