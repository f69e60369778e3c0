"""Random numbers that belong to a request: a pure function of (seed, run, step, draw), the same on every device.

Nothing is stored between steps, so neither the batch nor a pre-emption can shift a run's numbers.
"""

from __future__ import annotations

from torch import Tensor, float32, stack

from light_tts.kernels.splitmix import counter_words, shift_right
from light_tts.splitmix import GAMMA, mix, signed

DRAWS_PER_STEP = 2  # among the candidates, and again over the whole head

_UNIFORM_BITS = 24  # all that float32 holds exactly below 1


def run_key(seed: int, run_index: int) -> int:
    """Key of one run of a request, as a signed 64-bit integer. Any Python int is a valid seed."""
    return signed(mix(mix(seed) + (run_index + 1) * GAMMA))


def uniforms(keys: Tensor, steps: Tensor) -> Tensor:
    """The uniforms of one sampling step.

    keys:   [B] int64 from `run_key`.
    steps:  [B] int64, ids generated so far in each run.

    Returns [B, 2] float32 in [0, 1), exact multiples of 2^-24: the first draw and the redraw.
    """
    counters = stack([steps * DRAWS_PER_STEP + draw for draw in range(DRAWS_PER_STEP)], dim=-1)
    words = counter_words(keys, counters + 1)
    return shift_right(words, 64 - _UNIFORM_BITS).to(float32) * 2.0**-_UNIFORM_BITS
