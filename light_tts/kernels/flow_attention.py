"""Attention of new steps over kept pages and each other, under the chunk mask.

The plain version, and what both versions agree on. `flow_attention_triton.py` computes the same in one kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from light_tts.kernels.kv_slots import from_slots, to_slots


class FlowPages(NamedTuple):
    """Where the new steps of R sequences find their past and leave themselves. A page keeps one chunk of S steps.

    past:      [R, W] int32, pages of the steps before the new ones, right-aligned: the last column is the newest.
    num_past:  [R] int32, how many of them there are.
    lengths:   [R] int32, valid new steps, at least 1; what follows them is padding that nobody sees.
    chunks:    [R] int32, steps per chunk of the mask: a step sees its own chunk and all before. As large as the number
               of new steps: everything is seen.
    saves:     [R, C] int32, the page in which each chunk of new steps is to be kept, or -1.
    All on the device, so that a recorded call can change them.
    """

    past: Tensor
    num_past: Tensor
    lengths: Tensor
    chunks: Tensor
    saves: Tensor


class RelativePositions(NamedTuple):
    """Scores of the distance between query and key: (q + shift) . table[distance], added to the scaled q . k.

    table:  [heads, 2 * reach - 1, head width], for distances 1 - reach to reach - 1; no visible pair is further apart.
    shift:  [heads, head width].
    """

    table: Tensor
    shift: Tensor

    @property
    def reach(self) -> int:
        """Distances below it have a row."""
        return (self.table.shape[1] + 1) // 2


def paged_chunk_attention_plain(
    qkv: Tensor,
    kept: Tensor,
    pages: FlowPages,
    heads: int,
    rotation: Tensor | None = None,
    positions: RelativePositions | None = None,
) -> Tensor:
    """Attend from the new steps to the past and to each other, and keep the keys and values of what is to be kept.

    qkv:   [G * R, T, 3 W], W = heads * head width, in the order q, k, v. Row g * R + r is guidance row g of sequence r.
    kept:  [pages, G, S, 2 W] in the type of `qkv`, keys before values; or [pages, G, S, X] int8, each step as a slot of
           `kv_slots.py`. Written where `saves` says. What nobody sees may be anything.
           In int8, rows whose chunks are those of the pages see all steps rounded, new ones too: whether a past was
           kept or is computed again then makes no difference.
    rotation:  [2, R, T, head width / 2] float32: cosines and sines for the pairs of neighbours in queries and keys of
               the first head, which are kept rotated; None: nothing is rotated.
    positions: None: scores do not depend on the distance.

    Returns [G * R, T, W] in the type of `qkv`. Steps that are padding give some finite numbers.
    """
    rows, steps, width3 = qkv.shape
    width, sequences = width3 // 3, pages.past.shape[0]
    page_steps = kept.shape[2]
    if rotation is not None:
        qkv, angles = qkv.clone(), rotation.repeat(1, rows // sequences, 1, 1)
        for start in (0, width):
            _rotate(qkv[..., start : start + width // heads], angles)
    most_past = int(pages.num_past.max()) if sequences else 0
    slots = to_slots(qkv[..., width:].reshape(rows * steps, 2 * heads, -1), kept.dtype)
    slots = slots.view(-1, sequences, steps, kept.shape[3])
    new = qkv[..., width:].unflatten(0, (-1, sequences))  # [G, R, T, 2W]
    is_rounded = (pages.chunks <= page_steps)[:, None, None]
    new = torch.where(is_rounded, _steps(slots, heads, width, qkv.dtype), new)
    table = pages.past[:, pages.past.shape[1] - most_past :].long()
    past = _steps(kept[table].permute(2, 0, 1, 3, 4).flatten(2, 3), heads, width, qkv.dtype)  # [G, R, past steps, 2W]
    place = torch.arange(-most_past * page_steps, steps, device=qkv.device)
    query = torch.arange(steps, device=qkv.device)
    chunks = pages.chunks[:, None]
    ends = torch.minimum(pages.lengths[:, None], (query // chunks + 1) * chunks)  # [R, T]
    visible = (place >= -page_steps * pages.num_past[:, None])[:, None] & (place < ends[..., None])  # [R, T, S']
    keyed = torch.cat([past.masked_fill(~visible.any(1)[:, : past.shape[2], None], 0.0), new], dim=2)
    queries = _by_head(qkv[..., :width], heads)
    keys, values = (_by_head(part, heads) for part in keyed.flatten(0, 1).chunk(2, dim=-1))
    mask = visible[:, None].repeat(rows // sequences, 1, 1, 1)
    if positions is not None:
        distances = (query[:, None] - place + positions.reach - 1).clamp(0, 2 * positions.reach - 2)
        by_distance = (queries + positions.shift[:, None]) @ positions.table.transpose(1, 2)
        scores = by_distance.gather(-1, distances.expand(*queries.shape[:2], -1, -1))
        mask = scores.masked_fill(~mask, float("-inf"))
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    _keep(slots, kept, pages.saves)
    return out.transpose(1, 2).flatten(2)


def _steps(slots: Tensor, heads: int, width: int, dtype: torch.dtype) -> Tensor:
    """Slots [..., X] -> [..., 2 W]."""
    return from_slots(slots, 2 * heads, width // heads, dtype).flatten(-2)


def _rotate(x: Tensor, rotation: Tensor) -> None:
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = rotation
    x.copy_(torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1).flatten(-2))


def _keep(new: Tensor, kept: Tensor, saves: Tensor) -> None:
    page_steps = kept.shape[2]
    for sequence, chunk in (saves >= 0).nonzero().tolist():
        part = new[:, sequence, chunk * page_steps : (chunk + 1) * page_steps]
        kept[int(saves[sequence, chunk]), :, : part.shape[1]] = part


def _by_head(x: Tensor, heads: int) -> Tensor:
    """[B, T, W] -> [B, heads, T, W / heads]."""
    return x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2)
