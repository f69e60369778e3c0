"""Ids that a step draws and that are not known yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from light_tts.llm.decoding_group import NO_AHEAD_ROWS, AheadRows
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

    chunks:  after which ids are drawn.
    tokens:  [S] int64, of the rows `ahead` and then of the chunks; on the host once `ready`, without an event read from
             where they are.
    """

    chunks: list[Chunk]
    tokens: Tensor
    ready: torch.cuda.Event | None = None
    ahead: AheadRows = NO_AHEAD_ROWS

    def known(self) -> PendingDraws:
        """The same, waited for."""
        return PendingDraws(self.chunks, torch.tensor(self.wait()), None, self.ahead)

    def wait(self) -> list[int]:
        """The ids, when they are known."""
        if self.ready is not None:
            self.ready.synchronize()
        tokens: list[int] = self.tokens.tolist()
        return tokens
