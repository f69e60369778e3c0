"""Flow and vocoder of the recorded tiny models, and made-up voices for them."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from light_tts.models.nets.flow_net import FlowNet, build_dit_flow, build_unet_flow
from light_tts.models.nets.hift import HiftNet, build_hift
from light_tts.types import FlowPrompt

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
_FLOWS = {"cosyvoice2_tiny": build_unet_flow, "cosyvoice3_tiny": build_dit_flow}
LAYOUTS = list(_FLOWS)
CHUNK, LOOKAHEAD, STEPS, CODES = 25, 3, 2, 400
PLENTY = 1 << 30


@functools.cache
def tiny_flow(layout: str) -> FlowNet:
    config = json.loads((GOLDEN / layout / "config.json").read_text())["flow"]
    if "encoder" in config:
        config["encoder"]["static_chunk_size"] = CHUNK
    config["decoder"]["estimator"]["static_chunk_size"] = 2 * CHUNK
    return _FLOWS[layout](config, load_file(str(GOLDEN / layout / "flow.safetensors")))


@functools.cache
def tiny_vocoder(layout: str) -> HiftNet:
    config = json.loads((GOLDEN / layout / "config.json").read_text())["hift"]
    return build_hift(config, load_file(str(GOLDEN / layout / "hift.safetensors")), is_causal="3" in layout)


@functools.cache
def prompt_of(num_tokens: int, seed: int = 0) -> FlowPrompt:
    generator = torch.Generator().manual_seed(1000 * seed + num_tokens)
    return FlowPrompt(
        key=f"{num_tokens}:{seed}",
        tokens=torch.randint(0, CODES, (num_tokens,), generator=generator),
        mel=torch.randn(2 * num_tokens, 80, generator=generator) - 5.0,
        speaker=torch.randn(192, generator=generator),
    )
