"""What the drawing of ids reads of each row. The plain version is `light_tts/llm/sampler.py`."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

MAX_TOP_K = 64  # candidates that a row may have


class DrawRows(NamedTuple):
    """Inputs of B draws, as views of any row stride; all int64 but `numbers`.

    sources:       [B]; where one is not negative, `drawn[source]` is the last id of the window.
    targets:       [B], the id goes to `drawn[target]`.
    keys, steps:   [B] of the random numbers.
    top_k, greedy: [B]
    numbers:       [B, 2] float32: top_p, temperature.
    blocked:       [B, 4] two half-open ranges of ids that must not be drawn.
    window:        [B, W] the last W ids of the history; -1 where it is shorter.
    drawn:         the ids that sources and targets point into.
    """

    sources: Tensor
    targets: Tensor
    keys: Tensor
    steps: Tensor
    top_k: Tensor
    greedy: Tensor
    numbers: Tensor
    blocked: Tensor
    window: Tensor
    drawn: Tensor
