"""The context of new steps whose past lies in pages: all shapes fixed, all lengths read on the device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from light_tts.acoustic.flow_pages import PagedLevel
from light_tts.kernels.flow_attention import FlowPages, RelativePositions
from light_tts.kernels.flow_conv import ConvTails
from light_tts.kernels.flow_kernels import FlowKernels


class PagedContext:
    """SequenceContext over pages; row g * R + r is guidance row g of sequence r.

    level:        where the network's states are kept.
    pages:        of the R sequences, in steps of this level.
    num_new:      T new steps, whole chunks.
    first_steps:  [R] int64, index of the first new step of each sequence.
    kernels:      for layers without a bias.
    past_pages:   most pages of past that layers with a bias can see.
    """

    def __init__(
        self,
        level: PagedLevel,
        pages: FlowPages,
        *,
        num_new: int,
        first_steps: Tensor,
        kernels: FlowKernels,
        past_pages: int,
    ) -> None:
        _, _, _, self._guidance_rows, self._page_steps, _ = level.keys_values.shape
        self._level, self._pages, self._kernels = level, pages, kernels
        self._num_new, self._first_steps, self._past_pages = num_new, first_steps, past_pages
        self._sequences, self._num_chunks = pages.saves.shape
        assert self._num_chunks * self._page_steps == num_new, "new steps are whole chunks"
        self._save_index = torch.where(pages.saves < 0, level.dump_page, pages.saves).flatten().long()
        self._past_index = pages.past[:, pages.past.shape[1] - max(0, past_pages) :].flatten().long()
        self._last_index = pages.past[:, -1].long()
        self._has_past = (pages.num_past > 0)[:, None, None]
        self._last_or_none = torch.where(pages.num_past > 0, pages.past[:, -1], -1)
        self._mask: Tensor | None = None
        self._evaluation = 0
        self._gathered: tuple[Tensor, Tensor] | None = None  # tails before and after the new steps

    @property
    def num_keys(self) -> int:
        """Length of the key axis of layers with a bias."""
        return self._past_pages * self._page_steps + self._num_new

    def begin(self, evaluation: int) -> None:
        """Turn to the states of one evaluation (Euler step)."""
        # Calls with more evaluations than pages have room for have no past and keep nothing.
        self._evaluation = min(evaluation, self._level.keys_values.shape[1] - 1)
        self._gathered = None

    def finish(self) -> None:
        """Keep the tails of the evaluation that has just run, unless the kernels have."""
        if self._gathered is not None:
            after = self._gathered[1].unflatten(0, (self._guidance_rows, self._sequences)).permute(1, 2, 0, 3)
            self._level.tails[:, self._evaluation].index_copy_(0, self._save_index, after.flatten(0, 1))

    def tails(self, tail: int) -> ConvTails:
        """Where a convolution that reads pages itself finds them."""
        return ConvTails(
            self._level.tails[:, self._evaluation],
            self._level.places[tail],
            self._last_or_none,
            self._pages.saves,
            self._page_steps,
        )

    def attend(
        self,
        layer: int,
        qkv: Tensor,
        heads: int,
        bias: Tensor | None = None,
        rotation: Tensor | None = None,
        positions: RelativePositions | None = None,
    ) -> Tensor:
        """See SequenceContext and PagedSteps."""
        kept = self._level.keys_values[:, self._evaluation, layer]  # [N, G, S, 2W]
        if bias is None:
            return self._kernels.attention(qkv, kept, self._pages, heads, rotation, positions)
        assert self._guidance_rows == 1, "layers with a bias come before guidance"
        rows, steps, width3 = qkv.shape
        width, kept = width3 // 3, kept[:, 0]
        new = qkv[..., width:]
        keyed = new
        if self._past_pages:
            past = kept.index_select(0, self._past_index).view(rows, -1, 2 * width)
            keyed = torch.cat([past, new], dim=1)
        kept.index_copy_(0, self._save_index, new.unflatten(1, (-1, self._page_steps)).flatten(0, 1))
        query, key, value = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (qkv[..., :width], *keyed.chunk(2, dim=-1))
        )
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias + self._additive_mask(qkv.dtype))
        return out.transpose(1, 2).reshape(rows, steps, width)

    def attend_in_parts(self, layer: int, qkv: Tensor, heads: int, matrix: Tensor) -> Tensor:
        """See PagedSteps."""
        kept = self._level.keys_values[:, self._evaluation, layer]
        return self._kernels.stream.attention(qkv, kept, self._pages, heads, matrix)

    def extend(self, tail: int, x: Tensor, left: int) -> Tensor:
        """See SequenceContext."""
        rows, steps, channels = x.shape
        start = self._level.places[tail]
        place = slice(start, start + left * channels)
        gathered_before, gathered_after = self._gather()
        before = gathered_before[:, place].view(rows, left, channels)
        extended = torch.cat([before, x.to(before.dtype)], dim=1)
        # The last `left` inputs at the end of every chunk; they may overlap.
        windows = extended.as_strided(
            (rows, self._num_chunks, left * channels),
            ((left + steps) * channels, self._page_steps * channels, 1),
            storage_offset=self._page_steps * channels,
        )
        gathered_after[..., place] = windows
        return extended

    def _gather(self) -> tuple[Tensor, Tensor]:
        """Tails of all convolutions, [G * R, V], and room for those at the end of every chunk, [G * R, C, V]."""
        if self._gathered is None:
            kept = self._level.tails[:, self._evaluation]
            before = torch.where(self._has_past, kept.index_select(0, self._last_index), 0.0)
            shape = (self._guidance_rows * self._sequences, self._num_chunks, kept.shape[2])
            self._gathered = before.transpose(0, 1).flatten(0, 1), kept.new_empty(shape)
        return self._gathered

    def places(self) -> Tensor:
        """See PagedSteps."""
        return self._first_steps[:, None] + torch.arange(self._num_new, device=self._first_steps.device)

    def positions(self) -> Tensor:
        """See SequenceContext."""
        return self.places().repeat(self._guidance_rows, 1)

    def clear_padding(self, x: Tensor) -> Tensor:
        """See SequenceContext; here nobody looks at the padding."""
        return x

    def _additive_mask(self, dtype: torch.dtype) -> Tensor:
        """[R, 1, T, S'] of layers with a bias, made once."""
        if self._mask is None:
            pages, past_steps = self._pages, self._past_pages * self._page_steps
            steps = torch.arange(self._num_new, device=pages.past.device)
            places = torch.arange(-past_steps, self._num_new, device=pages.past.device)
            chunks = pages.chunks[:, None]
            ends = torch.minimum(pages.lengths[:, None], (steps // chunks + 1) * chunks)
            is_kept = places >= -self._page_steps * pages.num_past[:, None]
            visible = is_kept[:, None] & (places < ends[..., None])
            mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
            self._mask = mask.masked_fill_(~visible, float("-inf"))[:, None]
        return self._mask
