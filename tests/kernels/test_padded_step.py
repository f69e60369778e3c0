"""A whole padded step of Triton kernels draws and stores what the plain one does, in every version of it."""

import pytest
import torch

from light_tts.llm.model_runner import ModelRunner
from light_tts.llm.padded_step import PaddedStep, plain_kernels, triton_kernels
from light_tts.llm.scheduler import Chunk
from light_tts.llm.sequence_table import SequenceTable
from light_tts.llm.step_inputs import StepInputs
from light_tts.llm.step_shape import StepShape
from tests.llm.test_model_runner import sequence_of
from tests.llm.tiny_llm import load_tiny, stored_as_on_a_gpu

# Padding rows are computed from whatever lies in memory; the interpreter is numpy, which warns of it.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SHAPES = {"decoding": StepShape.decoding(4), "one row": StepShape.decoding(1), "packed": StepShape.packed(16, 4)}


def computed(lm, shape, kernels_of):
    """What a step leaves behind: ids and keys and values."""
    runner = ModelRunner(lm, num_blocks=32, block_tokens=4, win_size=10, tau_r=0.1)
    sequences = [sequence_of(lm, [9, 8, 7][: index + 1], list(range(8 * index, 8 * index + 8))) for index in range(3)]
    for sequence in sequences:
        sequence.num_computed = sequence.num_rows - 1
        runner.run([Chunk(sequence, 0, sequence.num_rows - 1, samples=False)])
    chunks = [Chunk.of(sequence, 1) for sequence in sequences[: shape.num_rows]]
    if shape.num_tiles:
        chunks[2] = Chunk(sequences[2], 6, sequences[2].num_rows - 6, samples=True)
    drawn = torch.zeros(9, dtype=torch.int64, device=lm.device)
    cache = runner.cache
    table = SequenceTable(most_pages=8, win_size=10, zero_page=cache.zero_page)
    inputs = StepInputs([shape], table, drawn, block_tokens=4, dump_slot=cache.dump_slot)
    with torch.inference_mode():
        num_drawn = inputs.fill(chunks, shape, 0)
        PaddedStep(lm, cache, kernels_of(runner._sampler)).compute(inputs.views(shape))
    # Nobody reads the page that takes what padding rows leave.
    return drawn[:num_drawn].tolist(), cache._by_page[:, :-1]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("version", range(3))
def test_every_version_agrees_with_the_plain_step(device, shape, version):
    lm = stored_as_on_a_gpu(load_tiny("cosyvoice2", device=device))
    expected_ids, expected_cache = computed(lm, shape, plain_kernels)
    ids, cache = computed(lm, shape, lambda sampler: triton_kernels(lm, sampler)[version])
    assert ids == expected_ids
    assert torch.allclose(cache, expected_cache, atol=2e-5)
