"""The computation of one padded step, from rows to sampled ids: what a CUDA graph records.

The layers of `Qwen2Body` once more: everything between the matrix products is fused into a few kernels, and sums go
into the residual stream in place. Rounds where the body rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from light_tts.kernels.decoder_rows import rms_norm_plain, silu_mul_plain
from light_tts.kernels.embedding import EmbeddingTables, RowInputs, embed_plain
from light_tts.kernels.packed_attention import PackedPages, packed_attention_plain
from light_tts.kernels.paged_decode import DecodePages, decode_attention_plain
from light_tts.llm.paged_attention import PagedKVCache
from light_tts.llm.sampler import Sampler
from light_tts.llm.step_inputs import DrawViews, StepViews
from light_tts.models.nets.qwen2 import Qwen2Layer
from light_tts.models.nets.speech_lm import SpeechLM


class StepKernels(NamedTuple):
    """The fused parts of a step; see the functions of `PLAIN_KERNELS`."""

    embed: Callable[[RowInputs, EmbeddingTables], tuple[Tensor, Tensor]]
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    silu_mul: Callable[[Tensor], Tensor]
    decode_attention: Callable[[Tensor, Tensor, Tensor, Tensor, DecodePages, int], Tensor]
    packed_attention: Callable[[Tensor, Tensor, Tensor, Tensor, PackedPages, int], Tensor]


PLAIN_KERNELS = StepKernels(embed_plain, rms_norm_plain, silu_mul_plain, decode_attention_plain, packed_attention_plain)


def triton_kernels() -> StepKernels:
    """The same for a GPU. Raises ImportError without Triton."""
    from light_tts.kernels.decoder_rows_triton import rms_norm, silu_mul
    from light_tts.kernels.embedding_triton import embed
    from light_tts.kernels.packed_attention_triton import packed_attention
    from light_tts.kernels.paged_decode_triton import decode_attention

    return StepKernels(embed, rms_norm, silu_mul, decode_attention, packed_attention)


class PaddedStep:
    """One step over inputs of fixed place; launches only, so that it can be recorded."""

    def __init__(self, lm: SpeechLM, cache: PagedKVCache, sampler: Sampler, kernels: StepKernels) -> None:
        self.cache = cache
        self._lm, self._sampler, self._kernels = lm, sampler, kernels
        self._tables = EmbeddingTables(lm.text_table, lm.speech_table, lm.ids.speech_row0, lm.body.inverse_frequencies)

    @property
    def win_size(self) -> int:
        """Ids of the history that the sampler looks back on."""
        return self._sampler.win_size

    def compute(self, views: StepViews) -> None:
        """Compute the rows and leave what is drawn after them in `drawn`."""
        hidden, rotation = self._kernels.embed(views.rows, self._tables)
        for layer in self._lm.body.layers:
            assert isinstance(layer, Qwen2Layer)
            hidden = self._advance(layer, hidden, rotation, views.pages)
        if views.selected is not None:
            hidden = hidden.index_select(0, views.selected)
        self._draw(hidden, views.draws)

    def _advance(self, layer: Qwen2Layer, hidden: Tensor, rotation: Tensor, pages: DecodePages | PackedPages) -> Tensor:
        """One layer: hidden [N, C], whose memory may be used -> [N, C]."""
        config, kernels = layer.config, self._kernels
        normed = kernels.rms_norm(hidden, layer.attention_norm, config.norm_eps)
        qkv = layer.qkv.multiply(normed).unflatten(-1, (-1, config.head_dim))
        hidden = layer.output.accumulate(hidden, self._attend(layer, qkv, rotation, pages))
        normed = kernels.rms_norm(hidden, layer.mlp_norm, config.norm_eps)
        return layer.down.accumulate(hidden, kernels.silu_mul(layer.gate_up.multiply(normed)))

    def _attend(self, layer: Qwen2Layer, qkv: Tensor, rotation: Tensor, pages: DecodePages | PackedPages) -> Tensor:
        query, key_value = qkv[:, : layer.config.num_heads], qkv[:, layer.config.num_heads :]
        slots, block_tokens = self.cache.slots_of(layer.index), self.cache.block_tokens
        if isinstance(pages, DecodePages):
            return self._kernels.decode_attention(query, key_value, rotation, slots, pages, block_tokens)
        return self._kernels.packed_attention(query, key_value, rotation, slots, pages, block_tokens)

    def _draw(self, hidden: Tensor, draws: DrawViews) -> None:
        """Draw an id after each row of hidden [S, C]."""
        body = self._lm.body
        final = rms_norm_plain(hidden.float(), body.norm, body.config.norm_eps)
        decision = self._sampler.sample(self._lm.logits(final), draws.sampling())
        draws.drawn.index_copy_(0, draws.targets, decision.tokens)
