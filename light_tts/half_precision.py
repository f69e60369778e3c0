"""Flow and vocoder in the precision asked for, if they give numbers in it; else in float32, with a warning.

Weights of some checkpoints overflow in float16 (spec: server, chapter 7). That shows in the first call, so it is looked
for before anybody listens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from light_tts.acoustic.flow import FlowDecoder, FlowHop
from light_tts.acoustic.vocoder import Vocoder, VocoderJob
from light_tts.models.model_dir import ModelDirectory
from light_tts.models.nets.flow_net import FlowNet
from light_tts.models.nets.hift import HiftNet
from light_tts.types import MEL_BINS, SPEAKER_DIM, FlowPrompt

logger = logging.getLogger(__name__)

PROBE_TOKENS = 50
PROBE_FRAMES = 50  # of each of three
PROBE_STEPS = 2

Net = TypeVar("Net", FlowNet, HiftNet)


@dataclass(frozen=True)
class Loaded(Generic[Net]):
    """A network, and the precision it runs in."""

    net: Net
    dtype: torch.dtype


def load_finite_flow(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> Loaded[FlowNet]:
    """The flow in `dtype`, or in float32. Raises CheckpointError."""
    return _load("flow", lambda kind: directory.load_flow(dtype=kind, device=device), _probe_flow, dtype)


def load_finite_vocoder(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> Loaded[HiftNet]:
    """The vocoder in `dtype`, or in float32. Raises CheckpointError."""
    return _load("vocoder", lambda kind: directory.load_vocoder(dtype=kind, device=device), _probe_vocoder, dtype)


def _load(
    name: str, load: Callable[[torch.dtype], Net], probe: Callable[[Net], Tensor], dtype: torch.dtype
) -> Loaded[Net]:
    net = load(dtype)
    if dtype is torch.float32:
        return Loaded(net, dtype)
    with torch.inference_mode():
        is_finite = bool(torch.isfinite(probe(net)).all())
    if is_finite:
        return Loaded(net, dtype)
    logger.warning("the %s gives values that are no numbers in %s, so it runs in float32", name, dtype)
    return Loaded(load(torch.float32), torch.float32)


def _probe_flow(net: FlowNet) -> Tensor:
    """Mel of codes from all over the codebook, without a prompt."""
    flow = FlowDecoder(net, prompt_cache_bytes=0, stream_cache_bytes=0)
    prompt = FlowPrompt(
        key="probe",
        tokens=torch.zeros(0, dtype=torch.int64, device=net.device),
        mel=torch.zeros(0, MEL_BINS, device=net.device),
        speaker=torch.ones(SPEAKER_DIM, device=net.device),
    )
    codes = torch.arange(PROBE_TOKENS, dtype=torch.int64) * 127 % net.vocabulary
    stream = flow.open(prompt, steps=PROBE_STEPS)
    try:
        return flow.decode([FlowHop(stream, codes, 0, is_final=True)])[0]
    finally:
        stream.close()


def _probe_vocoder(net: HiftNet) -> Tensor:
    """Samples of mels as loud as speech is in high bins, in low bins, and louder than speech in all of them."""
    vocoder = Vocoder(net)
    high = torch.linspace(-12.0, 2.0, MEL_BINS * PROBE_FRAMES, device=net.device).view(MEL_BINS, PROBE_FRAMES)
    mel = torch.cat([high, high.flip(0), torch.full_like(high, 3.0)], dim=1)
    stream = vocoder.open(0)
    try:
        return vocoder.decode([VocoderJob(stream, (mel,), is_final=True)])[0]
    finally:
        stream.close()
