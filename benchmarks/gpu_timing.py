"""Times of calls on a GPU, for the programs beside this file."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch


def median_ms(call: Callable[[], object], repeats: int) -> float:
    """Median of so many calls in milliseconds, host and device together."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start_s = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start_s) * 1000.0)
    return round(float(np.median(times)), 3)
