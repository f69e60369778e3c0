"""What surrounds the frames of one call: left context, visibility, positions. The networks know nothing of it.

A network computes new steps (tokens or frames) of several sequences at once, right-padded to one length. Two
operations need more than the steps themselves: attention and convolution. Both ask the context. `PlainContext` has no
past: whole sequences. Contexts with kept keys, values and convolution tails are made by those who keep them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class SequenceContext(Protocol):
    """The steps around the new steps of one call: B rows, T new steps (padded), keys of S = past + T steps."""

    @property
    def num_keys(self) -> int:
        """S: length of the key axis; the last T keys are the new steps themselves."""

    def attend(self, layer: int, qkv: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
        """Attention of the new steps over everything they may see.

        layer:  index of the attention layer in its network.
        qkv:    [B, T, 3W], W = heads * head width, in the order q, k, v.
        bias:   [B, heads, T, S] added to the scaled scores.
        Returns [B, T, W].
        """

    def extend(self, tail: int, x: Tensor, left: int) -> Tensor:
        """[B, T, C] -> [B, left + T, C]: the `left` steps before the new ones (zeros before the beginning).

        tail:  index of the convolution in its network.
        """

    def positions(self) -> Tensor:
        """[B or 1, T] int64: absolute index of each new step from the beginning of its sequence."""

    def clear_padding(self, x: Tensor) -> Tensor:
        """[B, T, C] with steps beyond each row's length set to zero."""


def attention(qkv: Tensor, keyed: Tensor, heads: int, mask: Tensor | None, chunk: int) -> Tensor:
    """Attention of new steps over kept and new ones. Every line of it is TorchScript, too (`acoustic/flow_script.py`).

    qkv:    [B, T, 3W] of the new steps, of which the queries are read.
    keyed:  [B, S, 2W] keys and values of all steps; the last T are the new ones.
    mask:   added to the scaled scores, broadcast to [B, heads, T, S].
    chunk:  new steps of so many see their own chunk and all before; 0: they see what the mask says.
    Returns [B, T, W].
    """
    rows, steps, width3 = qkv.shape
    width = width3 // 3
    query = qkv[:, :, :width].view(rows, steps, heads, width // heads).transpose(1, 2)
    keyed = keyed.view(rows, keyed.shape[1], 2 * heads, width // heads).transpose(1, 2)
    key, value = keyed[:, :heads], keyed[:, heads:]
    if chunk == 0:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    else:
        past = key.shape[2] - steps
        pieces: list[Tensor] = []
        for start in range(0, steps, chunk):
            end = min(start + chunk, steps)
            seen = past + end
            part = mask[:, :, start:end, :seen] if mask is not None else None
            pieces.append(
                F.scaled_dot_product_attention(
                    query[:, :, start:end], key[:, :, :seen], value[:, :, :seen], attn_mask=part
                )
            )
        out = torch.cat(pieces, dim=2)
    return out.transpose(1, 2).reshape(rows, steps, width)


class PlainContext:
    """Attention over what is given, with right padding, whole or in chunks (spec: flow, section 9).

    lengths:  valid new steps per row; the longest is T.
    chunk:    steps per chunk: a step sees its own chunk and all before. 0: everything sees everything.
    past:     steps before the new ones per row, multiples of `chunk`; their keys are right-aligned before the new ones,
              so that the distance of query i to key j is the same in all rows. Only contexts that keep keys have them.
    dtype:    type of queries, keys and values.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        chunk: int = 0,
        past: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.lengths = list(lengths)
        self.past = list(past) if past is not None else [0] * len(self.lengths)
        self.num_new = max(self.lengths)
        self.num_past = max(self.past)
        self.dtype = dtype
        self.device = torch.device(device)
        self._chunk = chunk if 0 < chunk < self.num_new else 0
        self._is_even = len(set(self.lengths)) == 1 and len(set(self.past)) == 1
        # Rows alike: one product per chunk over exactly the visible keys beats a mask on CPU; launches count on a GPU.
        self._by_chunks = bool(self._chunk) and self._is_even and self.device.type == "cpu"
        self._mask = self._make_mask()

    @property
    def num_keys(self) -> int:
        """Length of the key axis."""
        return self.num_past + self.num_new

    @property
    def chunk_of_attention(self) -> int:
        """New steps that are attended together, over all that they may see; 0: all of them, and the mask says what."""
        return self._chunk if self._by_chunks else 0

    def attend(self, layer: int, qkv: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
        """See SequenceContext."""
        keyed = self._keys_values(layer, qkv[..., qkv.shape[2] // 3 :])
        mask = bias
        if self._mask is not None:
            mask = self._mask if bias is None else bias + self._mask
        return attention(qkv, keyed, heads, mask, self.chunk_of_attention)

    def extend(self, tail: int, x: Tensor, left: int) -> Tensor:
        """See SequenceContext."""
        return F.pad(x, (0, 0, left, 0))

    def positions(self) -> Tensor:
        """See SequenceContext."""
        starts = self.past[:1] if self._is_even else self.past
        first = torch.tensor(starts, device=self.device)
        return first[:, None] + torch.arange(self.num_new, device=self.device)

    def clear_padding(self, x: Tensor) -> Tensor:
        """See SequenceContext."""
        if len(set(self.lengths)) == 1:
            return x
        valid = torch.arange(self.num_new) < torch.tensor(self.lengths)[:, None]
        return x * valid.to(device=x.device, dtype=x.dtype)[..., None]

    def _keys_values(self, layer: int, new: Tensor) -> Tensor:
        """[B, T, 2W] of the new steps -> [B, S, 2W] of all steps they may see."""
        return new

    def _make_mask(self) -> Tensor | None:
        """Additive mask, [B or 1, 1, T or 1, S]; None when everything is visible. No row is ever without a key."""
        if self._by_chunks or (self._is_even and not self._chunk):
            return None
        key_steps = torch.arange(self.num_keys) - self.num_past
        visible = torch.ones(1, 1, 1, self.num_keys, dtype=torch.bool)
        if not self._is_even:
            past, lengths = torch.tensor(self.past)[:, None], torch.tensor(self.lengths)[:, None]
            visible = visible & ((key_steps >= -past) & (key_steps < lengths))[:, None, None]
        if self._chunk:
            chunk_ends = (torch.arange(self.num_new) // self._chunk + 1) * self._chunk
            visible = visible & (key_steps < chunk_ends[:, None])
        mask = torch.zeros(visible.shape).masked_fill_(~visible, float("-inf"))
        return mask.to(device=self.device, dtype=self.dtype)
