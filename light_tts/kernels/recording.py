"""Recording what a call launches as a CUDA graph, while other threads may be computing."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

# Of streams, lower first. Flow and vocoder are most of what a crowded GPU has to do, and what first audio waits for
# when its tokens are there; the language model runs ahead of playback, and computes in the gaps that they leave. Small
# calls for first audio go before everything.
EXPRESS_PRIORITY, ACOUSTIC_PRIORITY, LLM_PRIORITY = -3, -1, 0


def record_graph(compute: Callable[[], object], memory: Any, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    """The graph of what `compute` launches on the current device.

    compute:  has run once before: no recording may compile kernels or make handles. Its results must lie outside of the
              memory pool, or be held as long as the graph.
    memory:   a pool that recordings share which never run at the same time (`torch.cuda.graph_pool_handle`).
    stream:   not the default one, perhaps the present one; nothing else runs on it.

    Raises RuntimeError, also for want of memory.
    """
    current = torch.cuda.current_stream()
    stream.wait_stream(current)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream), garbage_left_alone():
        # Not the context manager of torch: it waits for the device and empties the allocator's caches for everybody.
        graph.capture_begin(pool=memory, capture_error_mode="thread_local")
        try:
            compute()
        except BaseException:
            with suppress(RuntimeError):  # says only that something failed before
                graph.capture_end()
            raise
        graph.capture_end()
    current.wait_stream(stream)
    return graph


@contextmanager
def garbage_left_alone() -> Iterator[None]:
    """No thread collects garbage meanwhile.

    Old graphs and pinned memory may be in it: to destroy the ones, or to note on a stream when the others are free,
    spoils what is being recorded, whichever thread does it (pytorch/pytorch pull request 161037).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
