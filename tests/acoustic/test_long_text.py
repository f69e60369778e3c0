"""Minutes of speech: what a chunk costs and what a request holds do not depend on where in it one is."""

from __future__ import annotations

import random
from functools import partial

import pytest
import torch

from light_tts.acoustic.decoder import AcousticDecoder
from light_tts.acoustic.flow import FlowDecoder
from light_tts.acoustic.run import AcousticJob
from light_tts.acoustic.vocoder import Vocoder
from light_tts.audio_stream import AudioStream
from light_tts.narration import MAX_SEGMENTS_AHEAD, Narration
from light_tts.settings import AcousticSettings
from light_tts.speech_source import start_codes
from tests.acoustic.tiny_models import CHUNK, CODES, LOOKAHEAD, PLENTY, prompt_of, tiny_flow, tiny_vocoder

SEGMENT_TOKENS, SEGMENT_S = 500, 20  # about what the longest piece of a text becomes
HOP_TOKENS = 50


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "num_minutes"), [("cosyvoice3_tiny", 5), ("cosyvoice2_tiny", 2)])
def test_cost_and_memory_are_flat_over_a_long_text(
    layout: str, num_minutes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = AcousticSettings(token_hop_len=HOP_TOKENS)
    flow = FlowDecoder(tiny_flow(layout), prompt_cache_bytes=PLENTY, stream_cache_bytes=PLENTY)
    vocoder = Vocoder(tiny_vocoder(layout))
    decoder = AcousticDecoder(flow, vocoder, settings, chunk_tokens=CHUNK, lookahead_tokens=LOOKAHEAD)
    frames_of_calls: list[int] = []
    monkeypatch.setattr(decoder.costs, "observe", lambda rows, frames, seconds: frames_of_calls.append(frames))
    stream = AudioStream("long", timeout_s=280, max_pending_chunks=4)
    narration = Narration(stream, decoder, on_done=lambda: None)
    stream.on_cancel, stream.on_read = narration.cancel, narration.wake
    chance = random.Random(0)
    held_bytes, held_tokens, minutes = [], [], []
    decoder.start()
    try:
        with torch.inference_mode():
            narration.bind(AcousticJob(prompt_of(50), seed=1, flow_steps=1))
        for _ in range(60 * num_minutes // SEGMENT_S):
            narration.add(partial(start_codes, tuple(chance.choices(range(CODES), k=SEGMENT_TOKENS))))
        narration.complete()
        with stream:
            for _ in stream:
                runs = list(decoder._runs._runs.values())
                held_bytes.append(flow.stream_budget.used_bytes)
                held_tokens.append(sum(len(run.tokens) for run in runs))
                minutes.append(stream.stats.audio_s // 60)
    finally:
        decoder.close()
    assert stream.stats.audio_s == 60.0 * num_minutes

    def most(values: list[int], minute: int) -> int:
        return max(value for value, at in zip(values, minutes, strict=True) if at == minute)

    assert max(held_tokens) <= (MAX_SEGMENTS_AHEAD + 1) * SEGMENT_TOKENS
    # But for where the last hop before the end ends.
    assert most(held_bytes, num_minutes - 1) <= 1.1 * most(held_bytes, 0)
    assert flow.stream_budget.used_bytes == 0
    # After the first call, which computes the voice's prompt, only the hop's own frames are computed, everywhere.
    assert max(frames_of_calls[1:]) <= 2 * (HOP_TOKENS + CHUNK + LOOKAHEAD)
    tenth = len(frames_of_calls) // 10
    assert sum(frames_of_calls[-tenth:]) <= 1.2 * sum(frames_of_calls[1 : tenth + 1])
