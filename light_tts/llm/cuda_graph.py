"""Steps recorded as CUDA graphs: embedding, all layers, head and sampling in one launch.

A step of a chain of hundreds of short kernels costs the host more than the device; a recorded one costs a copy in, a
launch and a copy out.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

from light_tts.events import StartProgress
from light_tts.kernels.compile_ahead import compile_ahead
from light_tts.kernels.recording import record_graph
from light_tts.llm.padded_step import PaddedStep
from light_tts.llm.step_inputs import StepViews
from light_tts.models.device_errors import is_device_lost

logger = logging.getLogger(__name__)

_ROUNDS, _REPLAYS_OF_ROUND = 5, 3  # when versions of a step are compared


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

    versions:            of the same step, which of them is fastest depends on the shape. The last is used only where no
                         other can be computed.
    warm_up_iterations:  runs of a step before it is recorded, at least 1.
    """

    def __init__(self, versions: list[PaddedStep], warm_up_iterations: int = 1) -> None:
        self._most_rows = {version: version.kernels.most_rows for version in versions[:-1]}
        self._last_resort = versions[-1]
        self._warm_up_iterations = warm_up_iterations
        self._pool: Any = None
        self.chosen: dict[str, list[int]] = {}  # rows of the recorded steps, by what computes them

    def __call__(self, views: StepViews) -> Callable[[], None]:
        """See `padded_steps.Record`."""
        num_rows = len(views.rows.rows)
        recorded = []
        for version, most_rows in self._most_rows.items():
            if num_rows <= most_rows:
                try:
                    recorded.append((version.kernels.name, self._record(version, views)))
                # Whatever a compiler of kernels says on a machine that nobody has tried: there are other versions.
                except Exception as error:
                    if is_device_lost(error):
                        raise
                    self._give_up(version, num_rows, error)
        if not recorded:
            recorded = [(self._last_resort.kernels.name, self._record(self._last_resort, views))]
        name, graph = recorded[_fastest([graph for _, graph in recorded])]
        self.chosen.setdefault(name, []).append(num_rows)
        logger.debug("recorded a step of %d rows with %s kernels", num_rows, name)
        replay: Callable[[], None] = graph.replay
        return replay

    def prepare(self, progress: StartProgress, views_of_steps: Iterable[StepViews]) -> None:
        """Compile the kernels of all steps that will be recorded; see `padded_steps.Prepare`."""

        def meet_kernels() -> None:
            for views in views_of_steps:
                for version, most_rows in self._most_rows.items():
                    if len(views.rows.rows) <= most_rows:
                        version.compute_briefly(views)

        compile_ahead("language model", meet_kernels, progress)

    def _give_up(self, version: PaddedStep, num_rows: int, error: Exception) -> None:
        """Compute no step of so many rows with that version; smaller ones may need less of what was lacking."""
        name = version.kernels.name
        logger.warning("%s kernels fail for %d rows (%s: %s)", name, num_rows, type(error).__name__, error)
        self._most_rows[version] = num_rows - 1

    def _record(self, step: PaddedStep, views: StepViews) -> torch.cuda.CUDAGraph:
        for _ in range(self._warm_up_iterations):
            step.compute(views)  # loads kernels and makes handles, which no recording may
        torch.cuda.current_stream().synchronize()
        try:
            return self._captured(step, views)
        except torch.OutOfMemoryError:
            # A recording cannot take what the run before it has left in the allocator's cache.
            torch.cuda.empty_cache()
            return self._captured(step, views)

    def _captured(self, step: PaddedStep, views: StepViews) -> torch.cuda.CUDAGraph:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        return record_graph(partial(step.compute, views), self._pool, torch.cuda.current_stream())


def _fastest(graphs: list[torch.cuda.CUDAGraph]) -> int:
    """Which graph takes the least time at its best; they take turns, so that a disturbance hits all of them."""
    if len(graphs) == 1:
        return 0
    for graph in graphs:
        graph.replay()
    times_ms = [[_milliseconds(graph) for graph in graphs] for _ in range(_ROUNDS)]
    best_ms = [min(times) for times in zip(*times_ms, strict=True)]
    return best_ms.index(min(best_ms))


def _milliseconds(graph: torch.cuda.CUDAGraph) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(_REPLAYS_OF_ROUND):
        graph.replay()
    end.record()
    end.synchronize()
    elapsed_ms: float = start.elapsed_time(end)
    return elapsed_ms
