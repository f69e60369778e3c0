"""Ids that a step draws and that are not known yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from light_tts.llm.scheduler import Chunk
from light_tts.llm.sequence import Sequence


class SampledToken(NamedTuple):
    """An id drawn after a chunk; `sampler.INVALID_TOKEN` when its logits were not finite."""

    chunk: Chunk
    token: int

    @property
    def sequence(self) -> Sequence:
        """Whose id it is."""
        return self.chunk.sequence


@dataclass(frozen=True)
class PendingDraws:
    """What a step draws.

    chunks:  [S] after which ids are drawn.
    tokens:  [S] int64, on the host once `ready`; without an event, read from where they are.
    """

    chunks: list[Chunk]
    tokens: Tensor
    ready: torch.cuda.Event | None = None

    @classmethod
    def known(cls, sampled: list[SampledToken]) -> PendingDraws:
        """Ids that have been waited for already."""
        return cls([item.chunk for item in sampled], torch.tensor([item.token for item in sampled]))

    def wait(self) -> list[SampledToken]:
        """The ids, when they are known."""
        if self.ready is not None:
            self.ready.synchronize()
        return list(map(SampledToken, self.chunks, self.tokens.tolist()))
