"""Layers of the vocoder against plain torch formulas, and incremental against whole."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.models.nets.hift_layers import History, ResBlock, Snake, Upsample, polyphase

CPU = torch.device("cpu")


def randomise(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for part in module.modules():
        if isinstance(part, Snake):
            torch.nn.init.uniform_(part.alpha, 0.2, 3.0)
            part.prepare()
    return module.requires_grad_(False)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


@given(st.integers(2, 8), st.integers(0, 5), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_phases_equal_a_transposed_convolution(factor, extra, steps):
    kernel = factor + 2 * extra
    weight, bias, x = torch.randn(3, 2, kernel), torch.randn(2), torch.randn(2, steps, 3)
    up = Upsample(3, 2, kernel, factor, is_causal=False)
    folded, folded_bias = polyphase(weight, bias, factor, is_causal=False)
    up.conv.weight.data, up.conv.bias.data = folded[:, :, None], folded_bias
    expected = F.conv_transpose1d(x.transpose(1, 2), weight, bias, stride=factor, padding=extra)
    torch.testing.assert_close(up(x).transpose(1, 2), expected, atol=1e-5, rtol=1e-5)


@given(st.integers(2, 8), st.integers(1, 16), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_phases_equal_a_causal_convolution_of_repeated_steps(factor, kernel, steps):
    weight, bias, x = torch.randn(2, 3, kernel), torch.randn(2), torch.randn(2, steps, 3)
    up = Upsample(3, 2, kernel, factor, is_causal=True)
    folded, folded_bias = polyphase(weight, bias, factor, is_causal=True)
    up.conv.weight.data, up.conv.bias.data = folded[:, :, None], folded_bias
    repeated = F.pad(x.transpose(1, 2).repeat_interleave(factor, dim=2), (kernel - 1, 0))
    torch.testing.assert_close(up(x).transpose(1, 2), F.conv1d(repeated, weight, bias), atol=1e-5, rtol=1e-5)


def test_snake_is_its_formula():
    snake = randomise(Snake(4))
    x = torch.randn(2, 7, 4)
    expected = x + torch.sin(x * snake.alpha) ** 2 / (snake.alpha + 1e-9)
    torch.testing.assert_close(snake(x), expected)


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_pieces_with_history_equal_the_whole_in_ragged_batches(pieces):
    """Two rows advance by different lengths in each call; the shorter is padded with rubbish on the right."""
    torch.manual_seed(5)
    block = randomise(ResBlock(3, 5, [1, 3], is_causal=True))
    rows = [torch.randn(1, sum(lengths), 3) for lengths in zip(*pieces, strict=True)]
    done = [[], []]
    carried, position = None, [0, 0]
    for lengths in pieces:
        batch = torch.full((2, max(lengths), 3), 1e3)
        for row in range(2):
            batch[row, : lengths[row]] = rows[row][0, position[row] : position[row] + lengths[row]]
            position[row] += lengths[row]
        history = History(carried, lengths, CPU)
        output = block(batch, history, 1)
        carried = history.packed()
        for row in range(2):
            done[row].append(output[row, : lengths[row]])
    for row in range(2):
        torch.testing.assert_close(torch.cat(done[row])[None], block(rows[row]), atol=1e-4, rtol=1e-4)
