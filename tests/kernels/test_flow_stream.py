"""Residual streams in parts: both versions give what the blocks give in one piece."""

import pytest
import torch

from light_tts.kernels.flow_attention import FlowPages, paged_chunk_attention_plain
from light_tts.kernels.flow_linear import linear_residual_plain, norm_linear_plain
from light_tts.kernels.flow_stream import (
    Stream,
    attention_parts_plain,
    feed_forward_parts_plain,
    joined,
    stream_norm_linear_plain,
)

DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
# Rows, channels, hidden units, outputs: of the real network, of a tiny one.
SHAPES = pytest.mark.parametrize("shape", [(37, 256, 1024, 1536), (18, 32, 64, 80)], ids=str)
NUMS_PARTS = pytest.mark.parametrize("num_parts", [0, 3])


def skip_interpreted_bfloat16(device, dtype):
    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies the bits of bfloat16 matrices")


class Block:
    """Random weights of half a block, and a stream into it."""

    def __init__(self, shape, num_parts, dtype, device):
        generator = torch.Generator().manual_seed(sum(shape))
        rows, channels, hidden, outputs = shape

        def draw(*sizes, scale=1.0, dtype=dtype):
            return (scale * torch.randn(*sizes, generator=generator)).to(device, dtype)

        self.norm = draw(channels, dtype=torch.float32), draw(channels, dtype=torch.float32), 1e-5
        self.project = draw(outputs, channels, scale=channels**-0.5)
        self.hidden = draw(hidden, channels, scale=channels**-0.5), draw(hidden)
        self.last = draw(channels, hidden, scale=hidden**-0.5), draw(channels)
        self.stream = Stream(2.0 * draw(rows, channels, dtype=torch.float32) + 1.0)
        if num_parts:
            self.stream = Stream(self.stream.rows, draw(num_parts, rows, channels), draw(channels))


def relative_error(found, expected):
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@NUMS_PARTS
@SHAPES
def test_the_plain_versions_are_halves_of_a_block(shape, num_parts):
    block = Block(shape, num_parts, torch.float32, "cpu")
    rows = joined(block.stream)
    assert torch.equal(rows, block.stream.rows) == (num_parts == 0)
    out, stream = stream_norm_linear_plain(block.stream, block.norm, block.project, None)
    assert torch.equal(stream.rows, rows)
    assert stream.parts is None
    assert torch.equal(out, norm_linear_plain(rows, block.norm, block.project, None))
    hidden = norm_linear_plain(rows, block.norm, *block.hidden, "gelu")
    expected = linear_residual_plain(hidden, *block.last, rows)
    found = joined(feed_forward_parts_plain(block.stream, block.norm, block.hidden, block.last))
    assert torch.allclose(found, expected, atol=1e-4)


@NUMS_PARTS
@SHAPES
@DTYPES
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_a_product_adds_the_parts_up(device, shape, num_parts, dtype, tolerance, activation):
    from light_tts.kernels.flow_stream_triton import stream_norm_linear

    skip_interpreted_bfloat16(device, dtype)
    block = Block(shape, num_parts, dtype, device)
    bias = None if activation == "none" else block.project[:, 0].contiguous()
    expected, whole = stream_norm_linear_plain(block.stream, block.norm, block.project, bias, activation)
    out, stream = stream_norm_linear(block.stream, block.norm, block.project, bias, activation)
    assert out.dtype == dtype
    assert relative_error(out, expected) < tolerance
    assert stream.parts is None
    assert torch.allclose(stream.rows, whole.rows, atol=1e-5)
    again, _ = stream_norm_linear(block.stream, block.norm, block.project, bias, activation)
    assert torch.equal(again, out)


@NUMS_PARTS
@SHAPES
@DTYPES
def test_a_feed_forward_leaves_parts(device, shape, num_parts, dtype, tolerance):
    from light_tts.kernels.flow_feed_forward_triton import feed_forward_parts

    skip_interpreted_bfloat16(device, dtype)
    block = Block(shape, num_parts, dtype, device)
    expected = feed_forward_parts_plain(block.stream, block.norm, block.hidden, block.last)
    found = feed_forward_parts(block.stream, block.norm, block.hidden, block.last)
    assert found.parts.dtype == dtype
    assert torch.allclose(found.rows, expected.rows, atol=1e-5)
    assert relative_error(joined(found) - found.rows, joined(expected) - expected.rows) < tolerance
    again = feed_forward_parts(block.stream, block.norm, block.hidden, block.last)
    assert torch.equal(again.parts, found.parts)


def attention_case(dtype, device, heads=2, head_dim=16, steps=20, page_steps=10):
    """Two sequences, the second shorter, with pasts of three pages and of none; the first keeps a chunk."""
    generator = torch.Generator().manual_seed(3)
    width = heads * head_dim
    qkv = torch.randn(4, steps, 3 * width, generator=generator).to(device, dtype)
    kept = torch.randn(6, 2, page_steps, 2 * width, generator=generator).to(device, dtype)
    columns = [[[4, 0, 2], [5, 5, 5]], [3, 0], [20, 13], [10, 1000], [[1, -1], [-1, -1]]]
    pages = FlowPages(*(torch.tensor(column, dtype=torch.int32, device=device) for column in columns))
    matrix = (torch.randn(32, width, generator=generator) * width**-0.5).to(device, dtype)
    is_valid = (torch.arange(steps) < torch.tensor([20, 13, 20, 13])[:, None]).flatten()
    return qkv, kept, pages, heads, matrix, is_valid


def test_plain_parts_of_attention_add_up():
    qkv, kept, pages, heads, matrix, _ = attention_case(torch.float32, "cpu")
    before = kept.clone()
    parts = attention_parts_plain(qkv, kept, pages, heads, matrix)
    assert len(parts) == heads
    expected = paged_chunk_attention_plain(qkv, before, pages, heads).flatten(0, 1) @ matrix.t()
    assert torch.allclose(parts.sum(0), expected, atol=1e-5)
    assert torch.equal(kept, before)


@DTYPES
def test_attention_leaves_a_part_per_head(device, dtype, tolerance):
    from light_tts.kernels.flow_attention_few_triton import attention_parts

    skip_interpreted_bfloat16(device, dtype)
    qkv, kept, pages, heads, matrix, is_valid = attention_case(dtype, device)
    kept_of_plain = kept.clone()
    expected = attention_parts_plain(qkv, kept_of_plain, pages, heads, matrix)
    found = attention_parts(qkv, kept, pages, heads, matrix)
    assert found.shape == expected.shape
    assert relative_error(found[:, is_valid], expected[:, is_valid]) < tolerance
    assert torch.equal(kept, kept_of_plain)


def test_what_is_not_taken():
    pytest.importorskip("triton")
    from light_tts.kernels.flow_stream_triton import takes_stream

    matrix = torch.empty(512, 256, dtype=torch.float16)
    assert takes_stream(2, 50, 8, matrix)
    assert takes_stream(2, 100, 8, matrix)
    assert not takes_stream(2, 500, 8, matrix), "many rows"
    assert not takes_stream(2, 50, 8, matrix.float())
    assert not takes_stream(2, 50, 8, matrix[:, :240]), "channels that are no power of 2"
    assert not takes_stream(2, 50, 8, matrix[:400]), "hidden units that make no whole chunks"
    assert not takes_stream(6, 25, 80, matrix), "many heads"
