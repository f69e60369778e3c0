"""What the models are given of a voice: worked out when it is first used, and kept while it is."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Literal

import torch

from light_tts.types import FRAMES_PER_TOKEN, FlowPrompt, Mode, Voice

PromptAlignment = Literal["aligned", "exact"]
_KEPT_VOICES = 64  # least recently used ones leave


class VoicePrompts:
    """Speech codes and flow prompts of voices. Safe from many threads.

    Known again by their tensors, which are never written to: a recording may come with another transcript each time.

    alignment:         "aligned" cuts the flow prompt from the front, so that the first hop ends on the chunk grid;
                       "exact" keeps it whole.
    chunk_tokens:      speech tokens of one chunk of the grid.
    first_hop_tokens:  the first hop of a stream.
    """

    def __init__(self, alignment: PromptAlignment, *, chunk_tokens: int, first_hop_tokens: int) -> None:
        self._alignment = alignment
        self._chunk_tokens = chunk_tokens
        self._remainder_tokens = -first_hop_tokens % chunk_tokens
        self._codes = lru_cache(_KEPT_VOICES)(_codes)
        self._flow_prompt = lru_cache(_KEPT_VOICES)(self._make_flow_prompt)

    def codes(self, voice: Voice) -> tuple[int, ...]:
        """[P] speech codes of the voice's recording; none for a speaker vector."""
        return self._codes(voice.tokens)

    def flow_prompt(self, voice: Voice, mode: Mode) -> FlowPrompt:
        """What the flow is given of a voice; its key follows from the content and the alignment."""
        return self._flow_prompt(voice.tokens, voice.mel, voice.speaker, mode is Mode.PRESET)

    def _make_flow_prompt(
        self, tokens: torch.Tensor, mel: torch.Tensor, speaker: torch.Tensor, is_vector_only: bool
    ) -> FlowPrompt:
        if is_vector_only:
            tokens, mel = tokens[:0], mel[:0]
        surplus = (tokens.shape[0] - self._remainder_tokens) % self._chunk_tokens
        if self._alignment == "aligned" and tokens.shape[0] - surplus >= self._chunk_tokens:
            tokens, mel = tokens[surplus:], mel[FRAMES_PER_TOKEN * surplus :]
        content = hashlib.sha256()
        for values in (tokens, mel, speaker):
            content.update(str(tuple(values.shape)).encode())
            content.update(values.contiguous().numpy().tobytes())
        return FlowPrompt(f"{content.hexdigest()}:{self._alignment}", tokens, mel, speaker)


def _codes(tokens: torch.Tensor) -> tuple[int, ...]:
    return tuple(tokens.tolist())
