"""The beginning of a step: rows of the joint table, and the angles of their places. The plain version."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class RowInputs(NamedTuple):
    """Which rows enter. N is their number.

    rows:       [N] int64 of the joint table.
    sources:    [N] int64; where one is not negative, the row is that of the speech code `drawn[source]` instead.
    positions:  [N] int64, places in their sequences.
    drawn:      ids as the sampler left them; one that is no code stands for the first.
    """

    rows: Tensor
    sources: Tensor
    positions: Tensor
    drawn: Tensor


class EmbeddingTables(NamedTuple):
    """The joint table: text rows first, then speech rows.

    text, speech:         [V, C], the first in the dtype of the model.
    speech_row0:          joint-table row of speech code 0.
    inverse_frequencies:  [D / 2] float32 of the rotary embedding.
    """

    text: Tensor
    speech: Tensor
    speech_row0: int
    inverse_frequencies: Tensor


def embed_plain(inputs: RowInputs, tables: EmbeddingTables) -> tuple[Tensor, Tensor]:
    """Embedded rows [N, C] in the dtype of the text table, and cosine and sine of all angles [N, D / 2, 2] float32."""
    codes = inputs.drawn[inputs.sources.clamp(min=0)].clamp(min=0)
    rows = torch.where(inputs.sources >= 0, tables.speech_row0 + codes, inputs.rows)
    num_text = tables.text.shape[0]
    text = F.embedding(rows.clamp(max=num_text - 1), tables.text)
    speech = F.embedding((rows - num_text).clamp_(min=0), tables.speech).to(text.dtype)
    angles = inputs.positions[:, None].float() * tables.inverse_frequencies
    return torch.where((rows >= num_text)[:, None], speech, text), torch.stack([angles.cos(), angles.sin()], dim=-1)
