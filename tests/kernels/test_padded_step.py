"""A whole padded step of Triton kernels draws and stores what the plain one does, in every version of it."""

import logging
import re

import pytest
import torch

from light_tts.kernels.compile_ahead import compile_ahead
from light_tts.kernels.decoder_rows import rms_norm_plain, silu_mul_plain
from light_tts.llm.model_runner import ModelRunner
from light_tts.llm.padded_step import PaddedStep, plain_kernels, triton_kernels
from light_tts.llm.products import FusedProducts
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


@pytest.mark.parametrize("num_rows", [1, 16, 64])
def test_the_overlapping_kernels_of_a_decoding_step_compile(compiler, caplog, num_rows):
    """For the Hopper GPU that the fixture pretends: the interpreter takes what the compiler does not."""
    from light_tts.kernels.one_row_linear_triton import OneRowLinear
    from light_tts.kernels.paged_decode_triton import DecodeAttention
    from light_tts.kernels.split_linear_triton import SplitLinear

    lm = stored_as_on_a_gpu(load_tiny("cosyvoice2", dtype=torch.bfloat16))
    runner = ModelRunner(lm, num_blocks=8, block_tokens=4, win_size=10, tau_r=0.1)
    shape = StepShape.decoding(num_rows)
    table = SequenceTable(most_pages=8, win_size=10, zero_page=runner.cache.zero_page)
    drawn = torch.zeros(num_rows + 1, dtype=torch.int64)
    inputs = StepInputs([shape], table, drawn, block_tokens=4, dump_slot=runner.cache.dump_slot)
    counters = torch.zeros(2 * num_rows, dtype=torch.int32)
    kernels = triton_kernels(lm, runner._sampler)[0]._replace(
        products=FusedProducts(rms_norm_plain, silu_mul_plain, OneRowLinear(overlaps=True), SplitLinear(overlaps=True)),
        decode_attention=DecodeAttention(counters, pdl=True, reads_ahead=True),
    )
    with torch.inference_mode(), caplog.at_level(logging.INFO):
        inputs.fill([], shape, 0)
        compile_ahead("step", lambda: PaddedStep(lm, runner.cache, kernels).compute(inputs.views(shape)))
    assert "do not compile" not in caplog.text
    found = re.search(r"(\d+) kernels of the step compiled", caplog.text)
    assert found is not None
    assert int(found[1]) >= 7
