"""Computations as TorchScript graphs: the same operations one after another, without Python in between.

On a CPU a network is hundreds of short operations. From Python, each gives the interpreter away and has to get it back,
for which it waits while another thread has it. A graph needs no interpreter.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.jit import optimized_execution  # type: ignore[attr-defined]

_recording = threading.Lock()  # the recorder looks at state of the whole process


def can_script(device: torch.device) -> bool:
    """True where there are such graphs and they pay."""
    # PyTorch deprecates TorchScript for compilers, which want another one at run time and seconds of each start.
    return device.type == "cpu" and sys.version_info < (3, 14)


class ScriptGraph:
    """The graph of a function of tensors and tuples of them; made by the first call. Any thread.

    compute:     the function. It takes sizes from shapes and does not branch on them.
    example_of:  makes small inputs to record it with of those of the first call.
    """

    def __init__(self, compute: Callable[..., Any], example_of: Callable[..., tuple[Any, ...]]) -> None:
        self._compute, self._example_of = compute, example_of
        self._graph: Callable[..., Any] | None = None

    def __call__(self, *inputs: Any) -> Any:
        """What the function returns."""
        if self._graph is None:
            self._record(inputs)
        assert self._graph is not None
        # Optimising for the sizes of the first calls takes longer than many of these, and gains nothing.
        with optimized_execution(False):
            return self._graph(*inputs)

    def _record(self, inputs: tuple[Any, ...]) -> None:
        with _recording:
            if self._graph is None:
                self._graph = torch.jit.trace(self._compute, self._example_of(*inputs), check_trace=False)
