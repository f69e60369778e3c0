"""Repetition-aware sampling of a batch in one kernel, one program a row. Plain version: `light_tts/llm/sampler.py`.

The candidates are taken one after the other, largest first, until they carry the probability asked for: a reduction
each, and no more of them than there are candidates. The rare second draw costs a scan of the row.

Importing this needs Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.draw import MAX_TOP_K, DrawRows
from light_tts.kernels.launch_sizes import power_of_2


@triton.jit  # type: ignore[untyped-decorator]
def _uniforms(key: tl.tensor, step: tl.tensor) -> tl.tensor:
    """Both uniforms of a step, as `light_tts/llm/random.py` defines them: [2] float32."""
    counter = (step * 2 + tl.arange(0, 2) + 1).to(tl.uint64)
    word = key.to(tl.uint64) + counter * 0x9E3779B97F4A7C15
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB
    word = word ^ (word >> 31)
    return (word >> 40).to(tl.float32) * (1.0 / (1 << 24))


@triton.jit  # type: ignore[untyped-decorator]
def _below(total: tl.tensor) -> tl.tensor:
    """The float32 before a positive one."""
    return (total.to(tl.int32, bitcast=True) - 1).to(tl.float32, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def _draw_kernel(
    logits: tl.tensor,
    sources: tl.tensor,
    targets: tl.tensor,
    keys: tl.tensor,
    steps: tl.tensor,
    top_ks: tl.tensor,
    greedies: tl.tensor,
    numbers: tl.tensor,
    blocked: tl.tensor,
    window: tl.tensor,
    drawn: tl.tensor,
    least_repeats: tl.tensor,
    invalid: tl.tensor,
    fixed_stride: tl.tensor,
    numbers_stride: tl.tensor,
    HEAD: tl.constexpr,
    BLOCK: tl.constexpr,
    WIN_SIZE: tl.constexpr,
    BLOCK_WINDOW: tl.constexpr,
    MOST: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    ids = tl.arange(0, BLOCK)
    is_id = ids < HEAD
    minus_inf = float("-inf")
    top_p = tl.load(numbers + row * numbers_stride)
    temperature = tl.load(numbers + row * numbers_stride + 1)
    scores = tl.load(logits + row * HEAD + ids, mask=is_id, other=minus_inf) / temperature
    scores -= tl.max(scores, axis=0)
    scores -= tl.log(tl.sum(tl.exp(scores), axis=0))
    edges = blocked + row * 4
    is_blocked = (ids >= tl.load(edges)) & (ids < tl.load(edges + 1))
    is_blocked = is_blocked | ((ids >= tl.load(edges + 2)) & (ids < tl.load(edges + 3)))
    scores = tl.where(is_blocked, minus_inf, scores)
    weights = tl.exp(scores - tl.max(scores, axis=0))
    mass = tl.sum(weights, axis=0)
    is_valid = (mass > 0.0) & (mass < float("inf"))
    # The bits of a float that is not negative order as it does; with the reversed id below them there are no equals.
    bits = (weights / mass).to(tl.int32, bitcast=True).to(tl.int64)
    places = tl.where(is_id, (bits << 32) | (BLOCK - 1 - ids).to(tl.int64), -1)

    ranks = tl.arange(0, MOST)
    taken = tl.zeros([MOST], tl.int32)
    sums = tl.zeros([MOST], tl.float32)
    most = tl.minimum(tl.load(top_ks + row * fixed_stride), HEAD).to(tl.int32)
    rank = tl.where(is_valid, 0, most)
    total = top_p * 0.0
    while (rank < most) & (total < top_p):
        best = tl.max(places, axis=0)
        total += (best >> 32).to(tl.int32).to(tl.float32, bitcast=True)
        taken = tl.where(ranks == rank, BLOCK - 1 - (best & (BLOCK - 1)).to(tl.int32), taken)
        sums = tl.where(ranks == rank, total, sums)
        places = tl.where(places == best, -1, places)
        rank += 1

    uniforms = _uniforms(tl.load(keys + row * fixed_stride), tl.load(steps + row))
    second_uniform = tl.arange(0, 2) == 1
    target = tl.minimum(tl.sum(tl.where(second_uniform, 0.0, uniforms), axis=0) * total, _below(total))
    place = tl.min(tl.where((sums > target) & (ranks < rank), ranks, MOST - 1), axis=0)
    first = tl.sum(tl.where(ranks == place, taken, 0), axis=0)

    offsets = tl.arange(0, BLOCK_WINDOW)
    last = tl.load(window + row * WIN_SIZE + offsets, mask=offsets < WIN_SIZE, other=-1)
    source = tl.load(sources + row)
    just_drawn = tl.load(drawn + tl.maximum(source, 0))
    last = tl.where((offsets == WIN_SIZE - 1) & (source >= 0), just_drawn, last)
    num_repeats = tl.sum((last == first).to(tl.int32), axis=0)
    token = first
    if num_repeats.to(tl.float32) >= least_repeats:
        others = tl.where(ids == first, minus_inf, scores)
        others = tl.exp(others - tl.max(others, axis=0))
        cumulative = tl.cumsum(others, axis=0)
        whole = tl.max(cumulative, axis=0)
        target = tl.minimum(tl.sum(tl.where(second_uniform, uniforms, 0.0), axis=0) * whole, _below(whole))
        token = tl.min(tl.where((cumulative > target) & (others > 0.0), ids, BLOCK), axis=0)
        token = tl.where(token < BLOCK, token, 0)
    is_greedy = tl.load(greedies + row * fixed_stride) != 0
    token = tl.where(is_greedy, tl.sum(tl.where(ranks == 0, taken, 0), axis=0), token)
    tl.store(drawn + tl.load(targets + row), tl.where(is_valid, token, invalid).to(tl.int64))


def draw(logits: Tensor, rows: DrawRows, *, least_repeats: float, invalid: int) -> None:
    """Draw one id per row of contiguous `logits` [B, V] float32.

    least_repeats:  times that an id of the window is drawn again.
    invalid:        the id where logits are not finite.
    """
    num_rows, head_size = logits.shape
    win_size = rows.window.shape[1]
    _draw_kernel[(num_rows,)](
        logits, rows.sources, rows.targets, rows.keys, rows.steps, rows.top_k, rows.greedy, rows.numbers, rows.blocked,
        rows.window, rows.drawn, least_repeats, invalid, rows.keys.stride(0), rows.numbers.stride(0),
        HEAD=head_size, BLOCK=power_of_2(head_size), WIN_SIZE=win_size,
        BLOCK_WINDOW=power_of_2(win_size), MOST=MAX_TOP_K, num_warps=8,
    )  # fmt: skip
