"""The flow on a GPU: golden mel in float32, a crowd of cached streams like the CPU alone, bfloat16 close by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from light_tts.acoustic.flow import FlowDecoder, FlowHop
from light_tts.models.nets.flow_net import FlowNet, build_dit_flow, build_unet_flow
from light_tts.types import FlowPrompt

pytestmark = pytest.mark.gpu

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
BUILDERS = {"cosyvoice2_tiny": build_unet_flow, "cosyvoice3_tiny": build_dit_flow}
layouts = pytest.mark.parametrize("layout", list(BUILDERS))


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def load(layout: str, device: str, dtype: torch.dtype = torch.float32) -> FlowNet:
    config = json.loads((GOLDEN / layout / "config.json").read_text())["flow"]
    return BUILDERS[layout](config, load_file(GOLDEN / layout / "flow.safetensors"), dtype=dtype, device=device)


def stored(layout: str) -> tuple[FlowPrompt, torch.Tensor, torch.Tensor]:
    chain = load_file(GOLDEN / layout / "token2wav.safetensors")
    prompt = FlowPrompt("golden", chain["prompt_token"][0].long(), chain["prompt_feat"][0], chain["embedding"][0])
    return prompt, chain["token"][0].long(), chain["stream_constant_hop.mel"][0]


def stream_all(net: FlowNet, prompt: FlowPrompt, tokens: torch.Tensor, count: int) -> list[torch.Tensor]:
    """`count` equal streams, hop by hop on the grid, all hops of a turn in one call."""
    decoder = FlowDecoder(net, prompt_cache_bytes=1 << 28, stream_cache_bytes=1 << 28)
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
def test_streamed_mel_is_the_golden_one(layout: str) -> None:
    prompt, tokens, expected = stored(layout)
    for mel in stream_all(load(layout, "cuda"), prompt, tokens, count=3):
        assert mel.shape == expected.shape
        assert float((mel - expected).abs().max()) < 2e-4


@layouts
def test_offline_mel_is_the_golden_one(layout: str) -> None:
    prompt, tokens, _ = stored(layout)
    expected = load_file(GOLDEN / layout / "token2wav.safetensors")["offline.mel"][0]
    decoder = FlowDecoder(load(layout, "cuda"), prompt_cache_bytes=0, stream_cache_bytes=0)
    hop = FlowHop(decoder.open(prompt, stream=False), tokens, 0, is_final=True, full_mask=True)
    assert float((decoder.decode([hop])[0].cpu() - expected).abs().max()) < 2e-4


@layouts
def test_bfloat16_is_close_alone_and_in_a_crowd(layout: str) -> None:
    """The stated tolerance of half precision: 5 % of the mel spread on average, also between crowd and alone."""
    prompt, tokens, expected = stored(layout)
    net = load(layout, "cuda", torch.bfloat16)
    alone = stream_all(net, prompt, tokens, count=1)[0]
    spread = float(expected.std())
    assert float((alone - expected).abs().mean()) < 0.05 * spread
    for mel in stream_all(net, prompt, tokens, count=16):
        assert float((mel - alone).abs().mean()) < 0.05 * spread
