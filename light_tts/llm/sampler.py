"""Repetition-aware sampling for a whole batch in one pass, on the device (spec: llm, section 6; Chen et al. 2024,
arXiv:2406.05370, section 3.3).

Nothing here looks at a value on the host, so a step needs no synchronisation before its ids are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

INVALID_TOKEN = -1  # the logits of the row were not finite
_NO_CODE = -1  # pads a window that is not full yet
_INF = float("inf")
_LAST_ID = (1 << 31) - 1


@dataclass(frozen=True)
class SamplingBatch:
    """What the sampler must know about each row besides its logits.

    blocked:      [B, 4] int64, two half-open id ranges (start, stop, start, stop) that must not be drawn.
    window:       [B, W] int64, the last W ids of the history; -1 where it is shorter.
    top_p:        [B] float32 in (0, 1].
    top_k:        [B] int64, at least 1.
    max_top_k:    the largest of `top_k`, known on the host.
    temperature:  [B] float32 above 0, or None when it is 1 everywhere.
    greedy:       [B] bool, or None when it is False everywhere.
    uniforms:     [B, 2] float32 in [0, 1): for the first draw, and for the redraw.
    """

    blocked: Tensor
    window: Tensor
    top_p: Tensor
    top_k: Tensor
    max_top_k: int
    temperature: Tensor | None
    greedy: Tensor | None
    uniforms: Tensor


class Decision(NamedTuple):
    """The ids drawn, and how they came about. K is `max_top_k`.

    tokens:         [B] int64; INVALID_TOKEN where the logits were not finite.
    first:          [B] int64, the draw among the candidates.
    redrawn:        [B] bool, True where the repetition rule asked for a second draw.
    candidates:     [B, K] int64, most probable first.
    probabilities:  [B, K] float32 of the masked softmax.
    is_candidate:   [B, K] bool, a run of True from the left.
    """

    tokens: Tensor
    first: Tensor
    redrawn: Tensor
    candidates: Tensor
    probabilities: Tensor
    is_candidate: Tensor


class Sampler:
    """Draws ids.

    win_size, tau_r:  an id drawn at least `win_size * tau_r` times among the last `win_size` is drawn again.
    head_size:        V, number of logits.
    """

    def __init__(self, *, win_size: int, tau_r: float, head_size: int, device: torch.device | str) -> None:
        self.win_size = win_size
        self.least_repeats = win_size * tau_r
        self._ids = torch.arange(head_size, device=device)[None]
        self._reversed_ids = _LAST_ID - self._ids

    def sample(self, logits: Tensor, batch: SamplingBatch) -> Decision:
        """Draw one id per row of `logits` [B, V] float32."""
        scores = logits if batch.temperature is None else logits / batch.temperature[:, None]
        scores = self._mask(torch.log_softmax(scores, dim=-1), batch.blocked)
        probabilities, candidates = self._most_probable(torch.softmax(scores, dim=-1), batch.max_top_k)
        is_candidate = _nucleus(probabilities, batch)
        place = _inverse_cdf(probabilities * is_candidate, batch.uniforms[:, 0])
        first = candidates.gather(1, place)
        repeats = (batch.window == first).sum(dim=-1)
        redrawn = repeats >= self.least_repeats
        others = torch.softmax(scores.scatter(1, first, -_INF), dim=-1)
        second = _inverse_cdf(others, batch.uniforms[:, 1])
        tokens = torch.where(redrawn[:, None], second, first)[:, 0]
        if batch.greedy is not None:
            tokens = torch.where(batch.greedy, candidates[:, 0], tokens)
        tokens = torch.where(probabilities[:, 0] >= 0, tokens, INVALID_TOKEN)  # nothing compares to NaN
        return Decision(tokens, first[:, 0], redrawn, candidates, probabilities, is_candidate)

    def _mask(self, scores: Tensor, blocked: Tensor) -> Tensor:
        starts, stops = blocked[:, 0::2, None], blocked[:, 1::2, None]
        is_blocked = ((self._ids[:, None] >= starts) & (self._ids[:, None] < stops)).any(dim=1)
        return scores.masked_fill_(is_blocked, -_INF)

    def _most_probable(self, probabilities: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The `count` largest in stable order: equal probabilities by ascending id.

        `topk` itself leaves the order of equals open. The bits of a float that is not negative order as the float does,
        so bits and reversed id make one integer that has no equals.
        """
        keys = (probabilities.view(torch.int32).to(torch.int64) << 32) | self._reversed_ids
        best = keys.topk(min(count, keys.shape[-1]), dim=-1).values
        ids = _LAST_ID - (best & _LAST_ID)
        return probabilities.gather(1, ids), ids


def _nucleus(probabilities: Tensor, batch: SamplingBatch) -> Tensor:
    """Which of the most probable are candidates: those before which the running sum is below top_p, top_k at most."""
    before = torch.zeros_like(probabilities)
    before[:, 1:] = probabilities.cumsum(dim=-1)[:, :-1]
    ranks = torch.arange(probabilities.shape[-1], device=probabilities.device)
    return (before < batch.top_p[:, None]) & (ranks < batch.top_k[:, None])


def _inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Index [B, 1] of the first element whose cumulative weight exceeds `u * total`; never one of weight 0."""
    cumulative = weights.cumsum(dim=-1)
    total = cumulative[:, -1:]
    # Rounding may lift u * total up to the total, which nothing exceeds.
    target = torch.minimum(uniforms[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return ((cumulative > target) & (weights > 0)).to(torch.uint8).argmax(dim=-1, keepdim=True)
