"""Random numbers that belong to a request: a pure function of (seed, run, step, draw), the same on every device.

SplitMix64 (Steele, Lea and Flood 2014) used as a counter-based generator: number i of a run is
`key + i * gamma`, mixed.
Nothing is stored between steps, so neither the batch nor a pre-emption can shift a run's numbers.
"""

from __future__ import annotations

from torch import Tensor, float32, stack

DRAWS_PER_STEP = 2  # among the candidates, and again over the whole head

_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)
_WORD = (1 << 64) - 1
_UNIFORM_BITS = 24  # all that float32 holds exactly below 1


def run_key(seed: int, run_index: int) -> int:
    """Key of one run of a request, as a signed 64-bit integer. Any Python int is a valid seed."""
    return _signed(_mix_int(_mix_int(seed & _WORD) + (run_index + 1) * _GAMMA))


def uniforms(keys: Tensor, steps: Tensor) -> Tensor:
    """The uniforms of one sampling step.

    keys:   [B] int64 from `run_key`.
    steps:  [B] int64, ids generated so far in each run.

    Returns [B, 2] float32 in [0, 1), exact multiples of 2^-24: the first draw and the redraw.
    """
    counters = stack([steps * DRAWS_PER_STEP + draw for draw in range(DRAWS_PER_STEP)], dim=-1)
    mixed = _mix(keys[:, None] + (counters + 1) * _signed(_GAMMA))
    return _shift_right(mixed, 64 - _UNIFORM_BITS).to(float32) * 2.0**-_UNIFORM_BITS


def _mix(word: Tensor) -> Tensor:
    # int64 products wrap, which is the arithmetic modulo 2^64 that the generator is defined in.
    word = (word ^ _shift_right(word, _SHIFTS[0])) * _signed(_MULTIPLIERS[0])
    word = (word ^ _shift_right(word, _SHIFTS[1])) * _signed(_MULTIPLIERS[1])
    return word ^ _shift_right(word, _SHIFTS[2])


def _shift_right(word: Tensor, bits: int) -> Tensor:
    # Torch shifts signed words arithmetically; the mask takes the copied sign bits away.
    return (word >> bits) & ((1 << (64 - bits)) - 1)


def _mix_int(word: int) -> int:
    word &= _WORD
    word = (word ^ (word >> _SHIFTS[0])) * _MULTIPLIERS[0] & _WORD
    word = (word ^ (word >> _SHIFTS[1])) * _MULTIPLIERS[1] & _WORD
    return word ^ (word >> _SHIFTS[2])


def _signed(word: int) -> int:
    word &= _WORD
    return word - (1 << 64) if word >> 63 else word
