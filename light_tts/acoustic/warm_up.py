"""The first rows of the stage cost table: a few calls of flow and vocoder, timed before anybody listens."""

from __future__ import annotations

import time

import torch

from light_tts.acoustic.flow import FlowDecoder, FlowHop
from light_tts.acoustic.stage_costs import CostTable
from light_tts.acoustic.vocoder import VocoderJob, WaveDecoder
from light_tts.events import NO_PROGRESS, StartProgress
from light_tts.types import FRAMES_PER_TOKEN, MEL_BINS, SPEAKER_DIM, FlowPrompt

# (rows, speech tokens of each), the most telling first: a chunk, more of them at once, a long hop.
CALLS = ((1, 25), (2, 25), (4, 25), (1, 100), (8, 25), (16, 25), (4, 100), (16, 100), (32, 25), (64, 25), (64, 100))
BUDGET_S = 2.0
ANY_FRAMES = 1 << 30
REPEAT_BELOW_S = 0.1


def measure_costs(
    flow: FlowDecoder,
    vocoder: WaveDecoder,
    costs: CostTable,
    *,
    max_batch: int,
    most_frames: int = ANY_FRAMES,
    budget_s: float = BUDGET_S,
    progress: StartProgress = NO_PROGRESS,
) -> None:
    """Time a few calls and tell the table; also brings in what loads lazily.

    most_frames:  of the calls to be timed, each row.

    Belongs to the thread that calls `flow.decode`, or comes before there is one. Stops before the call that, as it
    looks, would not end within `budget_s`; what was not timed is guessed from what was, and learnt in service.
    """
    flow.warm_up(max_batch, progress)
    start_s = time.monotonic()
    first_rows, first_tokens = CALLS[0]
    _timed_call(flow, vocoder, first_rows, first_tokens)  # pays for lazy set-up; its time says nothing
    for rows, tokens in CALLS:
        frames = FRAMES_PER_TOKEN * tokens
        left_s = budget_s - (time.monotonic() - start_s)
        if rows > max_batch or frames > most_frames or (costs.measured() and costs.estimate_s(rows, frames) > left_s):
            continue
        seconds = _timed_call(flow, vocoder, rows, tokens)
        if seconds < REPEAT_BELOW_S:  # the first call of a shape may have chosen kernels for it
            seconds = min(seconds, _timed_call(flow, vocoder, rows, tokens))
        costs.observe(rows, frames, seconds)


@torch.inference_mode()
def _timed_call(flow: FlowDecoder, vocoder: WaveDecoder, rows: int, tokens: int) -> float:
    prompt = FlowPrompt(
        key="warm-up",
        tokens=torch.zeros(0, dtype=torch.int64),
        mel=torch.zeros(0, MEL_BINS),
        speaker=torch.zeros(SPEAKER_DIM),
    )
    codes = torch.zeros(tokens + flow.net.lookahead_tokens, dtype=torch.int64)
    streams = [flow.open(prompt) for _ in range(rows)]
    voices = [vocoder.open(seed) for seed in range(rows)]
    try:
        start_s = time.monotonic()
        mels = flow.decode([FlowHop(stream, codes, 0, is_final=False) for stream in streams])
        jobs = [VocoderJob(voice, (mel,), is_final=False) for voice, mel in zip(voices, mels, strict=True)]
        for samples in vocoder.decode(jobs):
            samples.float().cpu()  # a GPU's work is done when it is on the host, not when it is queued
        return time.monotonic() - start_s
    finally:
        for stream, voice in zip(streams, voices, strict=True):
            stream.close()
            voice.close()
