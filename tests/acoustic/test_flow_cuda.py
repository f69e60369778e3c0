"""The flow on a GPU: golden mel in float32, a crowd of cached streams like the CPU alone, bfloat16 close by.

Each with plain calls, with calls over paged states, and with recorded ones.
"""

from __future__ import annotations

import json
import random
import threading
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from light_tts.acoustic.flow import FlowDecoder, FlowHop
from light_tts.acoustic.flow_graphs import PagedRunner, why_not
from light_tts.acoustic.flow_runner import FlowRunner, PlainRunner
from light_tts.kernels.flow_kernels import FlowKernels, triton_kernels
from light_tts.kernels.overlapping import can_overlap
from light_tts.models.family import family_named
from light_tts.models.manifests import published_shapes
from light_tts.models.model_config import read_model_config
from light_tts.models.nets.flow_net import FlowNet, build_dit_flow, build_unet_flow
from light_tts.models.random_weights import random_state
from light_tts.models.yaml_config import parse_config
from light_tts.types import FlowPrompt
from tests.acoustic.tiny_flow import (
    PLENTY,
    STEPS,
    assert_close,
    grid_hops,
    random_prompt,
    random_tokens,
    tiny_flow,
    whole,
)
from tests.tf32 import tf32

pytestmark = pytest.mark.gpu

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
BUILDERS = {"cosyvoice2_tiny": build_unet_flow, "cosyvoice3_tiny": build_dit_flow}
layouts = pytest.mark.parametrize("layout", list(BUILDERS))
runners = pytest.mark.parametrize("kind", ["plain", "paged", "recorded", "recorded-unfused", "recorded-overlapping"])


@pytest.fixture(autouse=True)
def exact_float32():
    with tf32(False):
        yield


def load(layout: str, device: str, dtype: torch.dtype = torch.float32) -> FlowNet:
    config = json.loads((GOLDEN / layout / "config.json").read_text())["flow"]
    return BUILDERS[layout](config, load_file(GOLDEN / layout / "flow.safetensors"), dtype=dtype, device=device)


def kernels_of(kind: str, device: torch.device) -> FlowKernels:
    overlaps = kind.endswith("overlapping")
    if overlaps and not can_overlap(device):
        pytest.skip("needs compute capability 9.0")
    return triton_kernels(overlaps=overlaps)


def runner_of(net: FlowNet, kind: str, steps: int = 10) -> FlowRunner:
    if kind == "plain":
        return PlainRunner(net)
    assert why_not(net) is None
    return PagedRunner(
        net,
        cache_bytes=1 << 28,
        steps=steps,
        kernels=kernels_of(kind, net.device),
        most_graphs=8 if kind.startswith("recorded") else 0,
        fuses=not kind.endswith("unfused"),
    )


def decoder_of(net: FlowNet, kind: str) -> FlowDecoder:
    runner = runner_of(net, kind)
    runner.warm_up(4)
    return FlowDecoder(net, prompt_cache_bytes=1 << 27, stream_cache_bytes=1 << 27, runner=runner)


def stored(layout: str) -> tuple[FlowPrompt, torch.Tensor, torch.Tensor]:
    chain = load_file(GOLDEN / layout / "token2wav.safetensors")
    prompt = FlowPrompt("golden", chain["prompt_token"][0].long(), chain["prompt_feat"][0], chain["embedding"][0])
    return prompt, chain["token"][0].long(), chain["stream_constant_hop.mel"][0]


def stream_all(decoder: FlowDecoder, prompt: FlowPrompt, tokens: torch.Tensor, count: int) -> list[torch.Tensor]:
    """`count` equal streams, hop by hop on the grid, all hops of a turn in one call."""
    net = decoder.net
    streams = [decoder.open(prompt) for _ in range(count)]
    parts: list[list[torch.Tensor]] = [[] for _ in range(count)]
    offset, size = 0, net.chunk_tokens + -len(prompt.tokens) % net.chunk_tokens
    while True:
        is_final = len(tokens) < offset + size + net.lookahead_tokens
        visible = len(tokens) if is_final else offset + size + net.lookahead_tokens
        hops = [FlowHop(stream, tokens[:visible], offset, is_final) for stream in streams]
        for part, mel in zip(parts, decoder.decode(hops), strict=True):
            part.append(mel.cpu())
        if is_final:
            return [torch.cat(part, dim=1) for part in parts]
        offset, size = offset + size, net.chunk_tokens


@layouts
def test_with_states_in_int8_streamed_mel_is_nearly_the_golden_one(layout: str) -> None:
    prompt, tokens, expected = stored(layout)
    runner = PagedRunner(
        load(layout, "cuda"),
        cache_bytes=1 << 28,
        steps=10,
        kernels=triton_kernels(),
        most_graphs=8,
        int8_states=True,
    )
    runner.warm_up(4)
    decoder = FlowDecoder(runner._net, prompt_cache_bytes=1 << 27, stream_cache_bytes=1 << 27, runner=runner)
    for _ in range(2):
        for mel in stream_all(decoder, prompt, tokens, count=3):
            assert 0.0 < (mel - expected).norm().item() < 0.005 * expected.norm().item()


@layouts
@runners
def test_streamed_mel_is_the_golden_one(layout: str, kind: str) -> None:
    prompt, tokens, expected = stored(layout)
    decoder = decoder_of(load(layout, "cuda"), kind)
    for _ in range(2):
        for mel in stream_all(decoder, prompt, tokens, count=3):
            assert mel.shape == expected.shape
            assert float((mel - expected).abs().max()) < 2e-4
    if isinstance(decoder.runner, PagedRunner):
        assert decoder.runner.num_recorded == (8 if kind.startswith("recorded") else 0)


@layouts
@runners
def test_offline_mel_is_the_golden_one(layout: str, kind: str) -> None:
    prompt, tokens, _ = stored(layout)
    expected = load_file(GOLDEN / layout / "token2wav.safetensors")["offline.mel"][0]
    decoder = decoder_of(load(layout, "cuda"), kind)
    for _ in range(3):
        hop = FlowHop(decoder.open(prompt, stream=False), tokens, 0, is_final=True, full_mask=True)
        assert float((decoder.decode([hop])[0].cpu() - expected).abs().max()) < 2e-4


@layouts
@runners
def test_bfloat16_is_close_alone_and_in_a_crowd(layout: str, kind: str) -> None:
    """The stated tolerance of half precision: 5 % of the mel spread on average, also between crowd and alone."""
    prompt, tokens, expected = stored(layout)
    net = load(layout, "cuda", torch.bfloat16)
    alone = stream_all(decoder_of(net, kind), prompt, tokens, count=1)[0]
    spread = float(expected.std())
    assert float((alone - expected).abs().mean()) < 0.05 * spread
    decoder = decoder_of(net, kind)
    for _ in range(2):
        for mel in stream_all(decoder, prompt, tokens, count=16):
            assert float((mel - alone).abs().mean()) < 0.05 * spread


@layouts
def test_recorded_calls_read_nothing_that_longer_calls_replace(layout: str) -> None:
    """Tables that grow with the longest call must not take the memory away that a recorded call reads."""
    prompt, tokens, _ = stored(layout)
    decoder = decoder_of(load(layout, "cuda"), "recorded")
    for _ in range(3):
        before = stream_all(decoder, prompt, tokens, count=1)[0]
    decoder.decode([FlowHop(decoder.open(prompt, stream=False), tokens.repeat(40), 0, is_final=True, full_mask=True)])
    torch.cuda.empty_cache()
    rubbish = [torch.full((1 << 20,), float("nan"), device="cuda") for _ in range(16)]
    after = stream_all(decoder, prompt, tokens, count=1)[0]
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
    assert rubbish


@layouts
@pytest.mark.parametrize("seed", range(6))
def test_recorded_hops_in_a_crowd_join_to_the_whole(layout: str, seed: int) -> None:
    """Any schedule of hops, with room for states or without, through a ladder of recorded sizes that is too short."""
    chance = random.Random(seed)
    net = tiny_flow(layout, device="cuda")
    num_bytes = chance.choice([0, 400_000, 1 << 27])
    runner = PagedRunner(net, cache_bytes=num_bytes, steps=STEPS, kernels=triton_kernels(), most_graphs=3)
    runner.warm_up(2)
    decoder = FlowDecoder(net, prompt_cache_bytes=num_bytes, stream_cache_bytes=PLENTY, runner=runner)
    for _ in range(3):
        queues, expected = [], []
        for number in range(chance.randint(1, 6)):
            prompt = random_prompt(chance.randint(0, 17), seed=chance.randint(0, 1))
            tokens = random_tokens(chance.randint(1, 60), seed=number)
            full_mask = chance.random() < 0.2
            stream = decoder.open(prompt, steps=STEPS)
            chunks = [chance.randint(1, 3) for _ in range(chance.randint(0, 4))]
            hops = grid_hops(stream, tokens, chunks)
            queues.append([FlowHop(stream, tokens, 0, True, full_mask=True)] if full_mask else hops)
            expected.append(whole(layout, prompt, tokens, full_mask=full_mask))
        pieces: list[list[torch.Tensor]] = [[] for _ in queues]
        while any(queues):
            turn = [n for n, queue in enumerate(queues) if queue and chance.random() < 0.8]
            for number, mel in zip(turn, decoder.decode([queues[n].pop(0) for n in turn]), strict=True):
                pieces[number].append(mel.cpu())
        for parts, mel in zip(pieces, expected, strict=True):
            assert_close(torch.cat(parts, dim=1), mel, tolerance=5e-4)
    assert 0 < runner.num_recorded <= 3


@pytest.fixture(scope="module", params=["cosyvoice2", "cosyvoice3"])
def full_size(request: pytest.FixtureRequest) -> FlowNet:
    """Networks of the published sizes with random weights."""
    family = family_named(request.param)
    text = resources.files("light_tts.models.manifests").joinpath(family.config_filename).read_text(encoding="utf-8")
    config = read_model_config(parse_config(text), family)
    state = random_state(published_shapes(family.name, "flow"))
    return family.build_flow(config.flow, state, torch.bfloat16, torch.device("cuda"))


@pytest.mark.parametrize("kind", ["paged", "recorded", "recorded-unfused", "recorded-overlapping"])
@pytest.mark.parametrize("count", [1, 3, 24])
def test_full_size_networks_agree_with_the_plain_ones(full_size: FlowNet, kind: str, count: int) -> None:
    """Tiles depend on sizes. Every version rounds differently; a wrong number would be off by its whole size."""
    steps = 3
    runner = PagedRunner(
        full_size,
        cache_bytes=(2 * count + 2) * 80_000_000,
        steps=steps,
        kernels=kernels_of(kind, full_size.device),
        most_graphs=8 if kind.startswith("recorded") else 0,
        fuses=not kind.endswith("unfused"),
    )
    runner.record([runner.size_for(rows, chunks, 8) for rows in (1, count) for chunks in (1, 2, 3, 4)])
    decoders = [
        FlowDecoder(full_size, prompt_cache_bytes=1 << 30, stream_cache_bytes=8 << 30, runner=given)
        for given in (PlainRunner(full_size), runner)
    ]
    prompt, tokens = random_prompt(60), random_tokens(130, seed=1)
    mels: list[list[torch.Tensor]] = []
    for decoder in decoders:
        for _ in range(2):
            streams = [decoder.open(prompt, steps=steps) for _ in range(count)]
            hops = zip(*(grid_hops(stream, tokens, [1, 2], full_size.chunk_tokens) for stream in streams), strict=True)
            found = [decoder.decode(list(turn)) for turn in hops]
            for stream in streams:
                stream.close()
        mels.append([torch.cat([turn[row] for turn in found], dim=1).cpu() for row in range(count)])
    spread = float(mels[0][0].std())
    for plain, mel in zip(*mels, strict=True):
        assert mel.isfinite().all()
        assert float((mel - plain).abs().mean()) < 0.1 * spread


@layouts
@pytest.mark.parametrize("kind", ["recorded", "recorded-unfused", "recorded-overlapping"])
def test_recorded_calls_serve_any_number_of_steps(layout: str, kind: str) -> None:
    net = load(layout, "cuda")
    runner = runner_of(net, kind, steps=4)
    runner.warm_up(1)
    plain, recorded = (
        FlowDecoder(net, prompt_cache_bytes=0, stream_cache_bytes=0, runner=given) for given in (None, runner)
    )
    prompt, codes = random_prompt(30), random_tokens(40, seed=2)
    for steps in (4, 1, 7, 4):
        mels = []
        for decoder in (plain, recorded):
            stream = decoder.open(prompt, steps=steps, stream=False)
            mels += decoder.decode([FlowHop(stream, codes, 0, is_final=True)])
            stream.close()
        assert_close(mels[1].cpu(), mels[0].cpu())


def test_recording_does_not_mind_another_thread_that_computes() -> None:
    net = load("cosyvoice3_tiny", "cuda")
    stop, failures = threading.Event(), []

    def compute() -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                x = torch.randn(64, 64, device="cuda")
                while not stop.is_set():
                    x = torch.tanh(x @ x)
                    x.sum().item()
                    torch.empty(random.randint(1, 1 << 22), device="cuda")
        except RuntimeError as error:
            failures.append(error)

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        runner = runner_of(net, "recorded")
        runner.warm_up(4)
    finally:
        stop.set()
        thread.join()
    assert failures == []
    prompt, tokens, expected = stored("cosyvoice3_tiny")
    decoder = FlowDecoder(net, prompt_cache_bytes=1 << 27, stream_cache_bytes=1 << 27, runner=runner)
    assert float((stream_all(decoder, prompt, tokens, count=2)[1] - expected).abs().max()) < 2e-4
