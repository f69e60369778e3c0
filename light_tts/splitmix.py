"""SplitMix64 (Steele, Lea and Flood 2014) as a counter-based generator: number i of a key is `key + i * GAMMA`, mixed.

Pure. `kernels/splitmix.py` is the same for tensors.
"""

from __future__ import annotations

GAMMA = 0x9E3779B97F4A7C15
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)

_WORD = (1 << 64) - 1


def mix(word: int) -> int:
    """A word of 64 bits, each of which depends on all of the lowest 64 bits of `word`."""
    word &= _WORD
    word = (word ^ (word >> SHIFTS[0])) * MULTIPLIERS[0] & _WORD
    word = (word ^ (word >> SHIFTS[1])) * MULTIPLIERS[1] & _WORD
    return word ^ (word >> SHIFTS[2])


def signed(word: int) -> int:
    """The lowest 64 bits as a signed integer, as tensors hold them."""
    word &= _WORD
    return word - (1 << 64) if word >> 63 else word
