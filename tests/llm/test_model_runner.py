"""The packed step: rows of many sequences at once give what each gives alone."""

import pytest
import torch

from light_tts.llm import scheduler
from light_tts.llm.layout import OneWayLayout
from light_tts.llm.model_runner import ModelRunner
from light_tts.llm.sampler import INVALID_TOKEN
from light_tts.llm.sequence import RowSampling, Sequence
from light_tts.llm.silence import SilenceFilter
from light_tts.types import LLMPrompt
from tests.llm.tiny_llm import RecordingSink

TOLERANCE = 2e-5  # products of other shapes round differently


def Chunk(sequence, start, num_rows):
    return scheduler.Chunk(sequence, start, num_rows, start + num_rows == sequence.num_rows)


def runner_of(lm, num_blocks=32, block_tokens=4):
    return ModelRunner(lm, num_blocks=num_blocks, block_tokens=block_tokens, win_size=10, tau_r=0.1)


def sequence_of(lm, text, blocks, num_prompt=10):
    prompt = LLMPrompt((3, 1, 4), tuple(text), tuple(range(num_prompt)), len(text))
    layout = OneWayLayout(prompt, lm.ids, min_codes=0, max_codes=50)
    sequence = Sequence(0, layout, RowSampling(0.8, 25), 1, RecordingSink(), SilenceFilter(()))
    sequence.blocks = blocks
    return sequence


def whole(lm, sequence):
    """Hidden states of all rows of a sequence, computed at once in a cache of its own."""
    runner = runner_of(lm)
    alone = Sequence(0, sequence.layout, sequence.sampling, 0, sequence.sink, sequence.silence)
    alone.blocks = list(range(32))
    return runner.hidden([Chunk(alone, 0, alone.num_rows)])


@torch.inference_mode()
@pytest.mark.parametrize("sizes", [[1] * 19, [4, 4, 4, 4, 3], [7, 1, 1, 10], [18, 1]])
def test_any_cut_of_a_prompt_gives_the_same_states(lm, sizes):
    sequence = sequence_of(lm, [9, 8, 7, 6], blocks=[7, 3, 30, 1, 12])
    runner = runner_of(lm)
    parts, start = [], 0
    for size in sizes:
        parts.append(runner.hidden([Chunk(sequence, start, size)]))
        start += size
    assert torch.allclose(torch.cat(parts), whole(lm, sequence), atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def test_a_mixed_batch_computes_each_sequence_as_if_it_were_alone(lm):
    """Two decoding sequences of different lengths, a prompt that begins, and one that goes on, in one call."""
    runner = runner_of(lm)
    long = sequence_of(lm, [5] * 8, blocks=[0, 1, 2, 3, 4, 5])
    short = sequence_of(lm, [6], blocks=[6, 7, 8, 9], num_prompt=2)
    fresh = sequence_of(lm, [7] * 3, blocks=[10, 11, 12, 13, 14])
    going_on = sequence_of(lm, [8] * 5, blocks=[15, 16, 17, 18, 19])
    runner.hidden([Chunk(long, 0, long.num_rows - 1), Chunk(short, 0, short.num_rows - 1), Chunk(going_on, 0, 6)])
    chunks = [
        Chunk(long, long.num_rows - 1, 1),
        Chunk(short, short.num_rows - 1, 1),
        Chunk(fresh, 0, fresh.num_rows),
        Chunk(going_on, 6, 5),
    ]
    states = runner.hidden(chunks).split([chunk.num_rows for chunk in chunks])
    for chunk, state in zip(chunks, states, strict=True):
        expected = whole(lm, chunk.sequence)[chunk.start : chunk.start + chunk.num_rows]
        assert torch.allclose(state, expected, atol=TOLERANCE, rtol=0)


def test_only_chunks_that_reach_the_last_row_are_sampled(lm):
    runner = runner_of(lm)
    first, second = sequence_of(lm, [5] * 4, blocks=list(range(6))), sequence_of(lm, [6] * 4, list(range(6, 12)))
    sampled = runner.run([Chunk(first, 0, 5), Chunk(second, 0, second.num_rows)])
    assert [item.sequence for item in sampled] == [second]
    assert runner.run([Chunk(first, 5, 3)]) == []


def test_what_is_left_in_a_page_is_not_seen(lm):
    """The rest of the last page holds rows of an earlier sequence; so do the pages that pad a shorter neighbour."""
    results = []
    for left_over in (0.0, 1e4):
        runner = runner_of(lm)
        runner.cache._by_page.fill_(left_over)
        one, two = sequence_of(lm, [9], [3, 4, 5, 6, 2]), sequence_of(lm, [8] * 7, list(range(8, 16)))
        drawn = []
        for _ in range(4):
            for item in runner.run([Chunk(s, s.num_computed, s.num_pending) for s in (one, two)]):
                item.sequence.num_computed = item.sequence.num_rows
                item.sequence.layout.accept(5)
                drawn.append(item.token)
        results.append(drawn)
    assert len(results[0]) == 8
    assert results[0] == results[1]


def test_values_that_are_not_finite_stay_with_their_sequence_and_scrubbing_removes_them(lm):
    runner = runner_of(lm)
    sick, well = sequence_of(lm, [9], blocks=list(range(8))), sequence_of(lm, [8], blocks=list(range(8, 16)))
    runner.run([Chunk(sick, 0, 16), Chunk(well, 0, 16)])
    runner.cache._by_page[0, 0] = float("nan")
    tokens = {item.sequence: item.token for item in runner.run([Chunk(sick, 15, 1), Chunk(well, 15, 1)])}
    assert tokens[sick] == INVALID_TOKEN
    assert tokens[well] != INVALID_TOKEN
    runner.scrub(sick.blocks)
    assert torch.isfinite(runner.cache._by_page).all()
