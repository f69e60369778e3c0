"""The computation of one padded decoding step, from rows to sampled ids: what a CUDA graph records.

The layers of `Qwen2Body` once more, for rows that all decode: everything between the matrix products is fused into four
kernels, and sums go into the residual stream in place. Rounds where the body rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from light_tts.kernels.decoder_rows import rms_norm_plain, silu_mul_plain
from light_tts.kernels.paged_decode import DecodePages, decode_attention_plain
from light_tts.llm.decode_inputs import DecodeViews
from light_tts.llm.paged_attention import PagedKVCache
from light_tts.llm.sampler import Sampler
from light_tts.models.nets.qwen2 import Qwen2Layer
from light_tts.models.nets.speech_lm import SpeechLM


class DecodeKernels(NamedTuple):
    """The fused parts of a layer; see the functions of `PLAIN_KERNELS`."""

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    silu_mul: Callable[[Tensor], Tensor]
    attention: Callable[[Tensor, Tensor, Tensor, Tensor, DecodePages, int], Tensor]


PLAIN_KERNELS = DecodeKernels(rms_norm_plain, silu_mul_plain, decode_attention_plain)


def triton_kernels() -> DecodeKernels:
    """The same for a GPU. Raises ImportError without Triton."""
    from light_tts.kernels.decoder_rows_triton import rms_norm, silu_mul
    from light_tts.kernels.paged_decode_triton import decode_attention

    return DecodeKernels(rms_norm, silu_mul, decode_attention)


class PaddedDecode:
    """One step over inputs of fixed place; launches only, so that it can be recorded."""

    def __init__(self, lm: SpeechLM, cache: PagedKVCache, sampler: Sampler, kernels: DecodeKernels) -> None:
        self._lm, self._cache, self._sampler = lm, cache, sampler
        self._kernels = kernels

    def sample(self, views: DecodeViews) -> Tensor:
        """Ids [B] int64 drawn after the rows of the step."""
        return self._sampler.sample(self._lm.logits(self._hidden(views)), views.sampling()).tokens

    def _hidden(self, views: DecodeViews) -> Tensor:
        """Final hidden states [B, C] float32."""
        body = self._lm.body
        angles = views.positions[:, None].float() * body.inverse_frequencies
        rotation = torch.stack([angles.cos(), angles.sin()], dim=-1)
        hidden = self._lm.embed(views.rows)
        for layer in body.layers:
            assert isinstance(layer, Qwen2Layer)
            hidden = self._advance(layer, hidden, rotation, views.pages)
        return rms_norm_plain(hidden.float(), body.norm, body.config.norm_eps)

    def _advance(self, layer: Qwen2Layer, hidden: Tensor, rotation: Tensor, pages: DecodePages) -> Tensor:
        """One layer: hidden [B, C], whose memory may be used -> [B, C]."""
        config, kernels = layer.config, self._kernels
        normed = kernels.rms_norm(hidden, layer.attention_norm, config.norm_eps)
        qkv = layer.qkv.multiply(normed).unflatten(-1, (-1, config.head_dim))
        query, key_value = qkv[:, : config.num_heads], qkv[:, config.num_heads :]
        cache = self._cache.slots_of(layer.index)
        attended = kernels.attention(query, key_value, rotation, cache, pages, self._cache.block_tokens)
        hidden = layer.output.accumulate(hidden, attended)
        normed = kernels.rms_norm(hidden, layer.mlp_norm, config.norm_eps)
        return layer.down.accumulate(hidden, kernels.silu_mul(layer.gate_up.multiply(normed)))
