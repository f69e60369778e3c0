"""What attention over tiles of keys is made of: the running softmax, scores of distances, rotation of a head.

Importing this needs Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def attend_tile(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    by_distance: tl.tensor,
    is_visible: tl.tensor,
    top: tl.tensor,
    total: tl.tensor,
    sums: tl.tensor,
    scale_log2: tl.tensor,
    HAS_DISTANCE: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """One tile of keys of the running softmax. key: [D, N], value: [N, D], by_distance: added to the scaled scores.

    What is not scaled yet is scaled on its way into the exponential, which costs nothing there.
    """
    scores = tl.dot(query, key, input_precision=PRECISION)
    if HAS_DISTANCE:
        scores = scores * scale_log2 + by_distance
        scale_log2 = 1.0
    scores = tl.where(is_visible, scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, axis=1))
    # A query that has seen no key yet would subtract infinity from infinity.
    base = tl.where(new_top == float("-inf"), 0.0, new_top) * scale_log2
    weights = tl.exp2(scores * scale_log2 - base[:, None])
    shrink = tl.exp2(top * scale_log2 - base)
    total = total * shrink + tl.sum(weights, axis=1)
    sums = sums * shrink[:, None] + tl.dot(weights.to(value.dtype), value, input_precision=PRECISION)
    return new_top, total, sums


@triton.jit  # type: ignore[untyped-decorator]
def scores_by_distance(
    shifted: tl.tensor,
    table: tl.tensor,
    nearest: tl.tensor,
    DIMS: tl.constexpr,
    REACH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WINDOW: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tl.tensor:
    """[Q, N] scores of a tile of keys, the first query being `nearest` steps after the first key."""
    # All distances that occur, one product, and from each row what its keys need.
    rows = nearest - (KEYS - 1) + tl.arange(0, WINDOW) + REACH - 1
    is_row = (rows >= 0) & (rows < 2 * REACH - 1)
    dims = tl.arange(0, DIMS)
    vectors = tl.load(table + rows[None, :] * DIMS + dims[:, None], mask=is_row[None, :], other=0.0)
    scores = tl.dot(shifted, vectors, input_precision=PRECISION) * 1.4426950408889634
    return tl.gather(scores, tl.arange(0, QUERIES)[:, None] - tl.arange(0, KEYS)[None, :] + KEYS - 1, axis=1)


@triton.jit  # type: ignore[untyped-decorator]
def rotated(
    x: tl.tensor, cosines: tl.tensor, sines: tl.tensor, steps: tl.tensor, is_step: tl.tensor, DIMS: tl.constexpr
) -> tl.tensor:
    """[N, D] with each pair of neighbours turned by the angle of its step."""
    pairs = tl.arange(0, DIMS // 2)
    places = steps[:, None] * (DIMS // 2) + pairs[None, :]
    cosine = tl.load(cosines + places, mask=is_step[:, None], other=1.0)
    sine = tl.load(sines + places, mask=is_step[:, None], other=0.0)
    even, odd = tl.split(tl.reshape(x.to(tl.float32), [x.shape[0], DIMS // 2, 2]))
    turned = tl.join(even * cosine - odd * sine, odd * cosine + even * sine)
    return tl.reshape(turned, [x.shape[0], DIMS]).to(x.dtype)
