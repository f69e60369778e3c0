"""Estimators made of few kernels give what the networks as they are give."""

from __future__ import annotations

import copy
import functools
import random
from dataclasses import replace

import pytest
import torch

from light_tts.acoustic.flow import FlowDecoder, FlowHop
from light_tts.acoustic.flow_graphs import PagedRunner
from light_tts.acoustic.flow_sizes import ANY_PAST
from light_tts.kernels.flow_conv import paged_conv_plain
from light_tts.kernels.flow_kernels import FlowKernels, plain_kernels, triton_kernels
from light_tts.models.nets.conformer import ConformerBody, UpsampleConformer
from light_tts.models.nets.dense import prepare_all
from light_tts.models.nets.flow_net import FlowNet
from light_tts.models.nets.fuse import why_not_fused
from tests.acoustic.tiny_flow import (
    PLENTY,
    STEPS,
    assert_close,
    grid_hops,
    layouts,
    random_prompt,
    random_tokens,
    tiny_flow,
)

CHUNK = 15  # tokens: as many frames as the widest convolution sees back


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def with_wide_heads() -> FlowNet:
    """A flow whose body has heads that the kernels take."""
    net = copy.copy(tiny_flow("cosyvoice2_tiny", CHUNK))
    torch.manual_seed(3)
    body = ConformerBody(UpsampleConformer(48, 64, 4, 96, 2, 2, 3, (3, 5), 2), 80)
    for weight in body.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    prepare_all(body, torch.float32, "cpu")
    net.body = body
    return net


def decode_all(decoder: FlowDecoder, seed: int, steps: int = STEPS) -> list[torch.Tensor]:
    """Some streams of one voice and another, their hops mixed, one whole utterance."""
    chance = random.Random(seed)
    queues = []
    for number in range(3):
        prompt, tokens = random_prompt(chance.randint(0, 40), seed=number % 2), random_tokens(50, seed=number)
        stream = decoder.open(prompt, steps=steps)
        hops = grid_hops(stream, tokens, [chance.randint(1, 2) for _ in range(3)], CHUNK)
        queues.append([FlowHop(stream, tokens, 0, True, full_mask=True)] if number == 2 else hops)
    pieces: list[list[torch.Tensor]] = [[] for _ in queues]
    while any(queues):
        turn = [n for n, queue in enumerate(queues) if queue and chance.random() < 0.8]
        for number, mel in zip(turn, decoder.decode([queues[n].pop(0) for n in turn]), strict=True):
            pieces[number].append(mel)
    return [torch.cat(parts, dim=1) for parts in pieces]


def fused_decoder(net: FlowNet, kernels: FlowKernels, steps: int = STEPS) -> FlowDecoder:
    runner = PagedRunner(net, cache_bytes=1 << 26, steps=steps, kernels=kernels, most_graphs=0)
    assert runner.fused is not None
    return FlowDecoder(net, prompt_cache_bytes=PLENTY, stream_cache_bytes=PLENTY, runner=runner)


def in_parts(kernels: FlowKernels) -> FlowKernels:
    """With blocks computed as if they were always of few rows."""
    return replace(kernels, stream=replace(kernels.stream, takes=lambda *_: True))


@layouts
@pytest.mark.parametrize("kernels", [plain_kernels(), in_parts(plain_kernels())], ids=["in one piece", "in parts"])
@pytest.mark.parametrize("seed", range(3))
def test_fused_networks_agree_with_the_plain_ones(layout: str, kernels: FlowKernels, seed: int) -> None:
    net = tiny_flow(layout, CHUNK)
    plain = FlowDecoder(net, prompt_cache_bytes=0, stream_cache_bytes=0)
    found = decode_all(fused_decoder(net, kernels), seed)
    for mel, expected in zip(found, decode_all(plain, seed), strict=True):
        assert_close(mel, expected)


@pytest.mark.parametrize("seed", range(3))
def test_a_fused_body_agrees_with_the_plain_one(seed: int) -> None:
    net = with_wide_heads()
    plain = FlowDecoder(net, prompt_cache_bytes=0, stream_cache_bytes=0)
    fused = fused_decoder(net, plain_kernels())
    assert isinstance(fused.runner, PagedRunner)
    assert fused.runner.fused_body is not None
    for mel, expected in zip(decode_all(fused, seed), decode_all(plain, seed), strict=True):
        assert_close(mel, expected)


def test_a_body_that_reaches_further_than_its_tables_is_computed_as_it_is() -> None:
    net = with_wide_heads()
    runner = PagedRunner(net, cache_bytes=0, steps=STEPS, kernels=plain_kernels(), most_graphs=0)
    most = 4096 // net.chunk_frames
    assert runner.size_for(1, 1, most - 1).past_pages == ANY_PAST
    assert runner.size_for(1, 1, most).past_pages >= most


@layouts
@pytest.mark.slow
def test_the_whole_call_agrees_in_triton(layout: str, interpreter) -> None:
    net = tiny_flow(layout, CHUNK)
    prompt, tokens = random_prompt(18), random_tokens(16, seed=0)
    kernels = triton_kernels()
    if net.estimator_tails[0].left > 10:  # minutes of interpretation, and tested by itself
        kernels = replace(kernels, conv=paged_conv_plain)
    plain, fused = (
        FlowDecoder(net, prompt_cache_bytes=0, stream_cache_bytes=0),
        fused_decoder(net, kernels, steps=1),
    )
    mels = []
    for decoder in (plain, fused):
        stream = decoder.open(prompt, steps=1)
        hops = grid_hops(stream, tokens, [1], CHUNK)
        mels.append(torch.cat([decoder.decode([hop])[0] for hop in hops], dim=1))
    assert_close(mels[1], mels[0])


def test_what_the_kernels_do_not_take_is_computed_as_it_is() -> None:
    net = tiny_flow("cosyvoice3_tiny")
    assert "30 frames back" in str(why_not_fused(net))
    runner = PagedRunner(net, cache_bytes=0, steps=STEPS, kernels=plain_kernels(), most_graphs=0)
    assert runner.fused is None
