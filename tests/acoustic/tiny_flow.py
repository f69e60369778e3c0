"""Tiny flows with chunks of 5 tokens, utterances for them, and the plain way to compute one."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from light_tts.acoustic.flow import FlowDecoder, FlowHop
from light_tts.acoustic.flow_runner import FlowRunner
from light_tts.acoustic.flow_stream import FlowStream
from light_tts.models.nets.flow_net import FlowNet, build_dit_flow, build_unet_flow
from light_tts.types import FlowPrompt

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
LAYOUTS = {"cosyvoice2_tiny": build_unet_flow, "cosyvoice3_tiny": build_dit_flow}
CHUNK = 5  # tokens; short sequences then have many chunks
LOOKAHEAD = 3
STEPS = 3
CODES = 400
PLENTY = 1 << 30
TOLERANCE = 1e-4

layouts = pytest.mark.parametrize("layout", list(LAYOUTS))


@functools.cache
def tiny_flow(layout: str, chunk_tokens: int = CHUNK, device: str = "cpu") -> FlowNet:
    config = json.loads((GOLDEN / layout / "config.json").read_text())["flow"]
    if "encoder" in config:
        config["encoder"]["static_chunk_size"] = chunk_tokens
    config["decoder"]["estimator"]["static_chunk_size"] = 2 * chunk_tokens
    return LAYOUTS[layout](config, load_file(str(GOLDEN / layout / "flow.safetensors")), device=device)


def random_prompt(num_tokens: int, seed: int = 0, num_frames: int | None = None) -> FlowPrompt:
    generator = torch.Generator().manual_seed(1000 * seed + num_tokens)
    frames = 2 * num_tokens if num_frames is None else num_frames
    return FlowPrompt(
        key=f"{num_tokens}:{seed}:{frames}",
        tokens=torch.randint(0, CODES, (num_tokens,), generator=generator),
        mel=torch.randn(frames, 80, generator=generator) - 5.0,
        speaker=torch.randn(192, generator=generator),
    )


def random_tokens(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, CODES, (count,), generator=torch.Generator().manual_seed(seed))


def new_decoder(
    layout: str, prompt_bytes: int = PLENTY, stream_bytes: int = PLENTY, runner: FlowRunner | None = None
) -> FlowDecoder:
    return FlowDecoder(
        tiny_flow(layout), prompt_cache_bytes=prompt_bytes, stream_cache_bytes=stream_bytes, runner=runner
    )


def whole(layout: str, prompt: FlowPrompt, tokens: torch.Tensor, *, full_mask: bool = False, steps: int = STEPS):
    """The plain version: one final call over everything, nothing kept."""
    decoder = new_decoder(layout, 0, 0)
    hop = FlowHop(decoder.open(prompt, steps=steps), tokens, 0, is_final=True, full_mask=full_mask)
    return decoder.decode([hop])[0]


def grid_hops(stream: FlowStream, tokens: torch.Tensor, chunks: list[int], chunk_tokens: int = CHUNK) -> list[FlowHop]:
    """Hops that end on the chunk grid after so many chunks each, then the final one."""
    hops, offset = [], 0
    prompt_tokens = len(stream.prompt.tokens)
    for count in chunks:
        end = ((prompt_tokens + offset) // chunk_tokens + count) * chunk_tokens - prompt_tokens
        if end + LOOKAHEAD > len(tokens):
            break
        hops.append(FlowHop(stream, tokens[: end + LOOKAHEAD], offset, is_final=False))
        offset = end
    return [*hops, FlowHop(stream, tokens, offset, is_final=True)]


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert actual.shape == expected.shape
    assert actual.dtype == torch.float32
    if expected.numel():
        assert float((actual - expected).abs().max()) < tolerance
