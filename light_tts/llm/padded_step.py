"""The computation of one padded step, from rows to sampled ids: what a CUDA graph records.

The layers of `Qwen2Body` once more: everything between the matrix products is fused into a few kernels, and sums go
into the residual stream in place. Rounds where the body rounds, or later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from light_tts.kernels.decoder_rows import rms_norm_plain, silu_mul_plain
from light_tts.kernels.draw import MAX_TOP_K, DrawRows
from light_tts.kernels.embedding import EmbeddingTables, RowInputs, embed_plain
from light_tts.kernels.overlapping import can_overlap
from light_tts.kernels.packed_attention import PackedPages, packed_attention_plain
from light_tts.kernels.paged_decode import DecodePages, decode_attention_plain
from light_tts.llm.paged_attention import PagedKVCache
from light_tts.llm.products import FusedProducts, Residual, SeparateProducts, can_fuse
from light_tts.llm.random import uniforms
from light_tts.llm.sampler import INVALID_TOKEN, Sampler, SamplingBatch
from light_tts.llm.step_inputs import StepViews
from light_tts.models.nets.matrix import Matrix
from light_tts.models.nets.quantized_matrix import QuantizedMatrix
from light_tts.models.nets.qwen2 import Qwen2Layer
from light_tts.models.nets.speech_lm import SpeechLM

# Logits [B, V] float32 and what to know of their rows; leaves the ids in `drawn`.
Draw = Callable[[Tensor, DrawRows], None]


# More rows than that are left to the libraries' products.
MOST_FUSED_ROWS = 128
_COUNTERS = 1 << 14  # rows of attention times key-value heads


class StepKernels(NamedTuple):
    """What a step is made of; `plain_kernels` has the versions that the others must agree with.

    most_rows:  of a step that these kernels are good for.
    """

    name: str
    embed: Callable[[RowInputs, EmbeddingTables], tuple[Tensor, Tensor]]
    products: SeparateProducts
    decode_attention: Callable[[Tensor, Tensor, Tensor, Tensor, DecodePages, int], Tensor]
    packed_attention: Callable[[Tensor, Tensor, Tensor, Tensor, PackedPages, int], Tensor]
    draw: Draw
    most_rows: int = 1 << 20


def plain_kernels(sampler: Sampler) -> StepKernels:
    """The plain versions, for any device."""
    products = SeparateProducts(rms_norm_plain, silu_mul_plain)
    return StepKernels(
        "plain", embed_plain, products, decode_attention_plain, packed_attention_plain, plain_draw(sampler)
    )


def triton_kernels(lm: SpeechLM, sampler: Sampler, *, overlaps: bool = False) -> list[StepKernels]:
    """Versions for a GPU, of which the fastest may be taken; the last is the least ambitious one.

    overlaps:  with one whose kernels are launched before the one before has ended, where the GPU can do that.
    Raises ImportError without Triton.
    """
    from light_tts.kernels.decoder_rows_triton import rms_norm, silu_mul
    from light_tts.kernels.draw_triton import draw
    from light_tts.kernels.embedding_triton import embed
    from light_tts.kernels.one_row_linear_triton import OneRowLinear
    from light_tts.kernels.packed_attention_triton import packed_attention
    from light_tts.kernels.paged_decode_triton import DecodeAttention
    from light_tts.kernels.split_linear_triton import SplitLinear

    def fast_draw(logits: Tensor, rows: DrawRows) -> None:
        draw(logits, rows, least_repeats=sampler.least_repeats, invalid=INVALID_TOKEN)

    counters = torch.zeros(_COUNTERS, dtype=torch.int32, device=lm.device)
    separate = SeparateProducts(rms_norm, silu_mul)
    attention = DecodeAttention(counters)
    basis = StepKernels("separate", embed, separate, attention, packed_attention, fast_draw)
    versions = [basis, basis._replace(name="cautious", decode_attention=DecodeAttention(), draw=plain_draw(sampler))]
    if can_fuse(lm.dtype):
        products = FusedProducts(rms_norm, silu_mul, OneRowLinear(), SplitLinear())
        versions.insert(0, basis._replace(name="fused", products=products, most_rows=MOST_FUSED_ROWS))
    if can_fuse(lm.dtype) and overlaps and can_overlap(lm.device):
        products = FusedProducts(rms_norm, silu_mul, OneRowLinear(overlaps=True), SplitLinear(overlaps=True))
        attention = DecodeAttention(counters, pdl=True, reads_ahead=True)
        overlapping = versions[0]._replace(name="overlapping", products=products, decode_attention=attention)
        versions.insert(0, overlapping)
    return versions


def plain_draw(sampler: Sampler) -> Draw:
    """Drawing by the plain sampler."""

    def draw(logits: Tensor, rows: DrawRows) -> None:
        rows.drawn.index_copy_(0, rows.targets, sampler.sample(logits, sampling_batch(rows)).tokens)

    return draw


def sampling_batch(rows: DrawRows) -> SamplingBatch:
    """For the sampler, with nothing left out: what a step holds must not depend on its values."""
    just_drawn = rows.drawn[rows.sources.clamp(min=0)]
    last = torch.where(rows.sources >= 0, just_drawn, rows.window[:, -1])
    return SamplingBatch(
        blocked=rows.blocked,
        window=torch.cat([rows.window[:, :-1], last[:, None]], dim=1),
        top_p=rows.numbers[:, 0],
        top_k=rows.top_k,
        max_top_k=MAX_TOP_K,
        temperature=rows.numbers[:, 1],
        greedy=rows.greedy.bool(),
        uniforms=uniforms(rows.keys, rows.steps),
    )


class PaddedStep:
    """One step over inputs of fixed place; launches only, so that it can be recorded."""

    def __init__(self, lm: SpeechLM, cache: PagedKVCache, kernels: StepKernels) -> None:
        self.kernels = kernels
        self._lm, self._cache = lm, cache
        self._tables = EmbeddingTables(lm.text_table, lm.speech_table, lm.ids.speech_row0, lm.body.inverse_frequencies)

    def compute(self, views: StepViews) -> None:
        """Compute the rows and leave what is drawn after them in `drawn`."""
        self._compute(views, self._lm.body.layers)

    def compute_briefly(self, views: StepViews) -> None:
        """The same with one of the layers that are stored alike: every kernel of a step, and nothing that counts."""
        self._compute(views, {_storage(layer): layer for layer in self._lm.body.layers}.values())

    def _compute(self, views: StepViews, layers: Iterable[nn.Module]) -> None:
        hidden, rotation = self.kernels.embed(views.rows, self._tables)
        residual = Residual(hidden)
        for layer in layers:
            assert isinstance(layer, Qwen2Layer)
            self._advance(layer, residual, rotation, views.pages)
        self.kernels.draw(self.kernels.products.logits(residual, views.selected, self._lm), views.draws)

    def _advance(
        self, layer: Qwen2Layer, residual: Residual, rotation: Tensor, pages: DecodePages | PackedPages
    ) -> None:
        """One layer."""
        eps, products = layer.config.norm_eps, self.kernels.products
        qkv = products.norm_multiply(residual, layer.attention_norm, eps, layer.qkv)
        products.accumulate(residual, self._attend(layer, qkv, rotation, pages), layer.output)
        products.accumulate(residual, products.norm_gated(residual, layer.mlp_norm, eps, layer.gate_up), layer.down)

    def _attend(self, layer: Qwen2Layer, qkv: Tensor, rotation: Tensor, pages: DecodePages | PackedPages) -> Tensor:
        heads = qkv.unflatten(-1, (-1, layer.config.head_dim))
        query, key_value = heads[:, : layer.config.num_heads], heads[:, layer.config.num_heads :]
        slots, block_tokens = self._cache.slots_of(layer.index), self._cache.block_tokens
        if isinstance(pages, DecodePages):
            return self.kernels.decode_attention(query, key_value, rotation, slots, pages, block_tokens)
        return self.kernels.packed_attention(query, key_value, rotation, slots, pages, block_tokens)


def _storage(layer: nn.Module) -> tuple[str, ...]:
    """How the matrices of a layer are stored: which kernels multiply with them."""
    return tuple(
        matrix.weights.kind if isinstance(matrix, QuantizedMatrix) else type(matrix).__name__
        for matrix in layer.children()
        if isinstance(matrix, Matrix)
    )
