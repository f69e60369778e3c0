"""What is kept of voices is theirs: equal to what is worked out anew, and never another voice's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from light_tts.frontend.voice_prompts import VoicePrompts
from light_tts.types import Mode, Voice


def prompts(alignment="aligned") -> VoicePrompts:
    return VoicePrompts(alignment, chunk_tokens=25, first_hop_tokens=22)


def a_voice(num_tokens: int = 60, first_code: int = 0) -> Voice:
    return Voice("v", torch.ones(192), torch.arange(num_tokens) + first_code, torch.rand(2 * num_tokens, 80))


def test_a_voice_is_worked_out_once_whatever_its_transcript():
    kept, voice = prompts(), a_voice()
    other_words = replace(voice, id="w", prompt_text="other words")
    assert kept.flow_prompt(other_words, Mode.ZERO_SHOT) is kept.flow_prompt(voice, Mode.CROSS_LINGUAL)
    assert kept.codes(other_words) is kept.codes(voice)


def test_a_voice_under_the_same_name_is_another_one():
    kept, before, after = prompts(), a_voice(), a_voice(first_code=1)
    assert kept.codes(before)[0] == 0
    assert kept.codes(after)[0] == 1
    assert kept.flow_prompt(before, Mode.ZERO_SHOT).key != kept.flow_prompt(after, Mode.ZERO_SHOT).key


@pytest.mark.parametrize("alignment", ["aligned", "exact"])
def test_the_mode_decides_whether_the_recording_counts(alignment: str):
    kept, voice = prompts(alignment), a_voice()
    for _ in range(2):
        assert kept.flow_prompt(voice, Mode.PRESET).tokens.shape == (0,)
        whole = kept.flow_prompt(voice, Mode.ZERO_SHOT)
        assert whole.tokens.shape[0] == (53 if alignment == "aligned" else 60)
        assert whole.mel.shape[0] == 2 * whole.tokens.shape[0]


def test_many_voices_leave_again():
    kept, voice = prompts(), a_voice()
    first = kept.flow_prompt(voice, Mode.ZERO_SHOT)
    for code in range(1, 100):
        kept.flow_prompt(a_voice(first_code=code), Mode.ZERO_SHOT)
    again = kept.flow_prompt(voice, Mode.ZERO_SHOT)
    assert again is not first
    assert again.key == first.key
