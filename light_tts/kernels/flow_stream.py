"""A residual stream whose last addends are still apart, and what reads and makes such. Plain versions.

A product whose inputs are shared among programs ends as one part per program. Adding them up is left to whoever reads
the stream next: so a transformer block of few rows is three kernels instead of five.

M rows of C channels, sums in float32; matrices are [out, in] as in `torch.nn.Linear`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from light_tts.kernels.flow_attention import FlowPages, paged_chunk_attention_plain
from light_tts.kernels.flow_linear import Activation, norm_linear_plain


class Stream(NamedTuple):
    """The sum of `rows`, `bias` and all `parts`.

    rows:   [M, C] float32.
    parts:  [P, M, C] in the type of the products, or None: none, and no bias.
    bias:   [C].
    """

    rows: Tensor
    parts: Tensor | None = None
    bias: Tensor | None = None


def joined(stream: Stream) -> Tensor:
    """The sum [M, C] float32."""
    if stream.parts is None or stream.bias is None:
        return stream.rows
    return stream.rows + (stream.parts.float().sum(0) + stream.bias.float())


def stream_norm_linear_plain(
    stream: Stream,
    norm: tuple[Tensor, Tensor, float],
    matrix: Tensor,
    bias: Tensor | None,
    activation: Activation = "none",
) -> tuple[Tensor, Stream]:
    """activation(LayerNorm(x) W^T + b) [M, N] in the type of the matrix, and the stream x in one piece.

    norm:  weight [C] and bias [C] float32, epsilon.
    """
    rows = joined(stream)
    return norm_linear_plain(rows, norm, matrix, bias, activation), Stream(rows)


def attention_parts_plain(qkv: Tensor, kept: Tensor, pages: FlowPages, heads: int, matrix: Tensor) -> Tensor:
    """`paged_chunk_attention_plain` and the product after it, one part per head: [heads, G * R * T, C].

    matrix:  [C, W].
    """
    attended = paged_chunk_attention_plain(qkv, kept, pages, heads).flatten(0, 1)
    by_head = attended.unflatten(1, (heads, -1)).transpose(0, 1)  # [heads, M, D]
    return torch.bmm(by_head, matrix.t().unflatten(0, (heads, -1)))


def feed_forward_parts_plain(
    stream: Stream,
    norm: tuple[Tensor, Tensor, float],
    hidden: tuple[Tensor, Tensor],
    last: tuple[Tensor, Tensor],
) -> Stream:
    """x + W2 gelu(W1 LayerNorm(x) + b1) + b2, as a stream of one part.

    hidden, last:  matrix and bias, [F, C] and [F]; [C, F] and [C].
    """
    rows = joined(stream)
    activated = norm_linear_plain(rows, norm, *hidden, "gelu")
    matrix, bias = last
    return Stream(rows, torch.mm(activated, matrix.t())[None], bias)
