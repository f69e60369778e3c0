"""Computations as TorchScript graphs: the same operations one after another, without Python in between.

On a CPU a network is hundreds of short operations. From Python, each gives the interpreter away and has to get it back,
for which it waits while another thread has it. A graph needs no interpreter.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.jit import optimized_execution  # type: ignore[attr-defined]

Graph = Callable[..., Any]


def can_script(device: torch.device) -> bool:
    """True where there are such graphs and they pay."""
    # PyTorch deprecates TorchScript for compilers, which want another one at run time and seconds of each start.
    return device.type == "cpu" and sys.version_info < (3, 14)


def script_of(compute: Callable[..., Any], example: tuple[Any, ...]) -> Graph:
    """The graph of a function of tensors and tuples of them, as it computes the example.

    Sizes may differ from those of the example where the function takes them from shapes and does not branch on them.
    """
    graph = torch.jit.trace(compute, example, check_trace=False)

    def run(*inputs: Any) -> Any:
        # Optimising for the sizes of the first calls takes longer than many of these, and gains nothing.
        with optimized_execution(False):
            return graph(*inputs)

    return run
