"""SplitMix64 over tensors of int64, whose products wrap: the arithmetic modulo 2^64 that it is defined in."""

from __future__ import annotations

from torch import Tensor

from light_tts.splitmix import GAMMA, MULTIPLIERS, SHIFTS, signed


def counter_words(keys: Tensor, counters: Tensor) -> Tensor:
    """Numbers of each key: keys [B] int64, counters [N] or [B, N] int64 -> [B, N] int64."""
    words = keys[:, None] + counters * signed(GAMMA)
    words = (words ^ shift_right(words, SHIFTS[0])) * signed(MULTIPLIERS[0])
    words = (words ^ shift_right(words, SHIFTS[1])) * signed(MULTIPLIERS[1])
    return words ^ shift_right(words, SHIFTS[2])


def shift_right(words: Tensor, bits: int) -> Tensor:
    """Zeros come in from the left: torch shifts signed words arithmetically, so the copied sign bits are taken away."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)
