"""Steps recorded as CUDA graphs: embedding, all layers, head and sampling in one launch.

A step of a chain of hundreds of short kernels costs the host more than the device; a recorded one costs a copy in, a
launch and a copy out.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable

import torch

from light_tts.llm.padded_step import PaddedStep
from light_tts.llm.step_inputs import StepViews

logger = logging.getLogger(__name__)


def why_not(device: torch.device, head_dim: int) -> str | None:
    """Why steps cannot be recorded on this machine; None when they can."""
    if device.type != "cuda":
        return "the language model does not run on a GPU"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install 'light-tts[gpu]')"
    if head_dim < 16 or head_dim & (head_dim - 1):
        return f"heads of {head_dim} numbers are not a power of 2 of at least 16"
    return None


class GraphRecorder:
    """Records steps on the present stream; the graphs share their memory, since they run one after the other.

    warm_up_iterations:  runs of a step before it is recorded, at least 1.
    """

    def __init__(self, warm_up_iterations: int = 1) -> None:
        self._warm_up_iterations = warm_up_iterations
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: PaddedStep, views: StepViews) -> Callable[[], None]:
        """See `padded_steps.Record`."""
        for _ in range(self._warm_up_iterations):
            step.compute(views)  # compiles kernels and makes handles, which no recording may
        stream = torch.cuda.current_stream()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Another thread may be computing at the same time, on a stream of its own.
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            step.compute(views)
        logger.debug("recorded a step of %d rows", len(views.rows.rows))
        replay: Callable[[], None] = graph.replay
        return replay
