"""Flow calls of a ladder of sizes, recorded when they are wanted again; the least recently used ones leave."""

from __future__ import annotations

import importlib.util
import logging
import time
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from light_tts.acoustic.flow_batch import FlowRow
from light_tts.acoustic.flow_call import FlowCall
from light_tts.acoustic.flow_inputs import ANY_PAST, CallSize
from light_tts.acoustic.flow_pages import PagedStates, PagePool
from light_tts.acoustic.flow_runner import FlowRunner, PlainRunner
from light_tts.events import NO_PROGRESS, StartProgress
from light_tts.kernels.flow_kernels import FlowKernels, can_overlap, triton_kernels
from light_tts.models.nets.flow_net import MAX_FRAMES, FlowNet
from light_tts.models.nets.fuse import fuse, fuse_body, why_body_not_fused, why_not_fused

logger = logging.getLogger(__name__)

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
_PAST_PAGES = 16  # the body sees so many pages of past in any case: 16 s of published models
_FREE_FRAMES = 1600  # rows x frames below which a call takes about as long as the smallest: launches, not arithmetic
_MOST_FRAMES = 12_800  # rows x frames of one call, which bounds what it takes of the memory
_MOST_RECORDED_FRAMES = 2400  # longer calls are bound by arithmetic
_WARM_CHUNKS = (1, 2, 4)
# What is tried in this order: its name, whether the estimator is fused, whether its kernels overlap.
_KINDS = (("overlapping kernels", True, True), ("fused kernels", True, False), ("CUDA graphs", False, False))


def _chunk_ladder(most: int) -> list[int]:
    """Recorded lengths in chunks: all small ones, then a quarter more each time."""
    ladder = [1]
    while ladder[-1] < most:
        ladder.append(ladder[-1] + max(1, ladder[-1] // 4))
    return ladder


def _fits(size: CallSize, larger: CallSize) -> bool:
    """True when rows of one size can be computed in a call of the other."""
    if size.steps != larger.steps or (size.past_pages == ANY_PAST) != (larger.past_pages == ANY_PAST):
        return False
    return all(has >= needs for has, needs in zip(larger, size, strict=True))


def why_not(net: FlowNet) -> str | None:
    """Why flow calls cannot be recorded on this machine; None when they can."""
    if net.device.type != "cuda":
        return "the flow does not run on a GPU"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install 'light-tts[gpu]')"
    from light_tts.kernels.flow_attention_triton import can_attend

    head_dim = net.estimator.attention_width // net.estimator.attention_heads
    if not can_attend(head_dim):
        return f"heads of {head_dim} numbers are not a power of 2 of at least 16"
    return None


def flow_runner(
    net: FlowNet, *, cache_bytes: int, steps: int, most_graphs: int, may_overlap: bool = False
) -> FlowRunner:
    """The fastest runner that works here; says in the log why a GPU gets the plain one.

    cache_bytes:  of all kept states.
    steps:        of the calls whose states may be kept, at most.
    most_graphs:  recorded calls that are kept; 0: the plain runner.
    may_overlap:  try kernels that are launched before the one before has ended, where the GPU can.
    """
    if net.device.type != "cuda" or not most_graphs:
        return PlainRunner(net)
    reason = why_not(net)
    if reason is not None:
        logger.warning("flow calls are not recorded as CUDA graphs: %s", reason)
        return PlainRunner(net)
    for name, fuses, overlaps in _KINDS:
        if overlaps and not (may_overlap and can_overlap(net.device)):
            continue
        try:
            runner = PagedRunner(
                net,
                cache_bytes=cache_bytes,
                steps=steps,
                kernels=triton_kernels(overlaps=overlaps),
                most_graphs=most_graphs,
                fuses=fuses,
            )
            runner.record([CallSize(1, 1, runner.past_pages(0), steps)])
            return runner
        except Exception as error:  # whatever Triton or the driver says: speaking slowly is better than not at all
            logger.warning("flow calls do without %s: %s: %s", name, type(error).__name__, error)
    return PlainRunner(net)


def _record_nothing(memory: Any, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    """A recording that keeps a memory pool alive while no other is there: a pool that nobody uses is gone for good."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        graph.capture_begin(pool=memory, capture_error_mode="thread_local")
        torch.zeros(1, device="cuda")
        graph.capture_end()
    return graph


class PagedRunner:
    """FlowRunner whose states lie in pages, and whose calls are recorded on a GPU.

    cache_bytes:  of all pages.
    steps:        evaluations that a page has room for.
    most_graphs:  recorded calls that are kept at once; 0: none is recorded.
    fuses:        compute the estimator with fused kernels where they take it; False: the network as it is.
    """

    def __init__(
        self,
        net: FlowNet,
        *,
        cache_bytes: int,
        steps: int,
        kernels: FlowKernels,
        most_graphs: int,
        fuses: bool = True,
    ) -> None:
        self.pool = PagePool(net, cache_bytes, steps=steps)
        self._net, self._kernels, self._most_graphs = net, kernels, most_graphs
        reason = why_not_fused(net) if fuses else "it was asked for so"
        if reason is not None:
            logger.info("the flow's estimator is computed as it is: %s", reason)
        self.fused = fuse(net, kernels) if reason is None else None
        can_fuse_body = fuses and why_body_not_fused(net) is None
        self.fused_body = fuse_body(net, kernels) if can_fuse_body else None
        self._has_body_attention = net.body.shape.token_layers > 0
        self._ladder = _chunk_ladder(-(-MAX_FRAMES // net.chunk_frames))
        self._recorded: OrderedDict[CallSize, FlowCall] = OrderedDict()
        self._wanted: Counter[CallSize] = Counter()
        net.noise, net.time_table(steps)  # copies to the device, which no recording may do
        if most_graphs:
            self._memory = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream()
            self._anchor = _record_nothing(self._memory, self._stream)

    @property
    def num_recorded(self) -> int:
        """Recorded calls that are kept now."""
        return len(self._recorded)

    def states_bytes(self, num_tokens: int, steps: int) -> int:
        """See FlowRunner."""
        return num_tokens // self.pool.chunk_tokens * self.pool.page_bytes

    def allocate(self, num_tokens: int, steps: int) -> PagedStates | None:
        """See FlowRunner."""
        return self.pool.allocate(num_tokens) if steps <= self.pool.steps else None

    def joins(self, group: Sequence[int], tokens: int) -> bool:
        """See FlowRunner."""
        if len(group) == ROWS[-1] or (len(group) + 1) * self._frames(max(group)) > _MOST_FRAMES:
            return False
        return self._cost(len(group) + 1, max(group)) <= self._cost(len(group), max(group)) + self._cost(1, tokens)

    @torch.inference_mode()
    def run(self, rows: Sequence[FlowRow], *, steps: int, is_chunked: bool) -> list[Tensor]:
        """See FlowRunner."""
        past = max(sum(states.num_tokens for states in row.past) for row in rows) // self.pool.chunk_tokens
        chunks = self._chunks(max(row.num_tokens for row in rows))
        count = ROWS[bisect_left(ROWS, len(rows))] if len(rows) <= ROWS[-1] else len(rows)
        call = self._call(CallSize(count, chunks, self.past_pages(past, chunks), steps))
        mel = call.run(rows, is_chunked=is_chunked)
        return [mel[index, : 2 * row.num_tokens] for index, row in enumerate(rows)]

    @torch.inference_mode()
    def warm_up(self, max_rows: int, progress: StartProgress = NO_PROGRESS) -> None:
        """See FlowRunner."""
        if self._most_graphs:
            sizes = [
                CallSize(rows, chunks, self.past_pages(0, chunks), self.pool.steps)
                for rows in ROWS
                for chunks in _WARM_CHUNKS
                if rows <= max_rows and rows * chunks * self._net.chunk_frames <= _MOST_FRAMES
            ]
            self.record(sizes, progress)

    @torch.inference_mode()
    def record(self, sizes: Iterable[CallSize], progress: StartProgress = NO_PROGRESS) -> None:
        """Record calls ahead, as many as are kept. Raises what the driver or the compiler raises."""
        started_s, before_bytes = time.perf_counter(), torch.cuda.memory_reserved(self._net.device)
        # The largest first: the others find their memory in what it leaves behind.
        wanted = sorted(set(sizes) - set(self._recorded), key=self._work, reverse=True)[-self._most_graphs :]
        for done, size in enumerate(wanted, 1):
            self._record(size)
            progress.recorded("flow", done, len(wanted))
        if wanted:
            taken_mb = (torch.cuda.memory_reserved(self._net.device) - before_bytes) / 2**20
            elapsed_s = time.perf_counter() - started_s
            logger.info("recorded %d CUDA graphs of flow calls in %.1f s; %.0f MB", len(wanted), elapsed_s, taken_mb)

    def past_pages(self, num_past: int, chunks: int = 1) -> int:
        """Of a size whose rows have up to so many pages of past."""
        if not self._has_body_attention:
            return 0
        if self.fused_body is not None and (num_past + chunks) * self._net.chunk_frames <= self.fused_body.reach:
            return ANY_PAST
        if not num_past and chunks > _WARM_CHUNKS[-1]:
            return 0
        pages = _PAST_PAGES
        while pages < num_past:
            pages *= 2
        return pages

    def _chunks(self, tokens: int) -> int:
        needed = -(-tokens // self.pool.chunk_tokens)
        return self._ladder[bisect_left(self._ladder, needed)]

    def _frames(self, tokens: int) -> int:
        return self._chunks(tokens) * self._net.chunk_frames

    def _cost(self, rows: int, tokens: int) -> int:
        return max(_FREE_FRAMES, rows * self._frames(tokens))

    def _call(self, size: CallSize) -> FlowCall:
        """A recorded call that the rows fit into, if there is one worth it; else one that computes."""
        fitting = [
            other
            for other in self._recorded
            if _fits(size, other)
            and other.rows * other.chunks * self._net.chunk_frames <= max(_FREE_FRAMES, self._work(size) * 5 // 4)
        ]
        if fitting:
            best = min(fitting, key=lambda other: (self._work(other), other.past_pages))
            self._recorded.move_to_end(best)
            return self._recorded[best]
        self._wanted[size] += 1
        is_short = size.chunks * self._net.chunk_frames <= _MOST_RECORDED_FRAMES
        if self._most_graphs and is_short and self._wanted[size] > 1:
            try:
                return self._record(size)
            except RuntimeError as error:  # out of memory, most likely; the call can still be computed
                logger.warning("no more flow calls are recorded as CUDA graphs: %s", error)
                self._most_graphs = 0
        return self.new_call(size)

    def new_call(self, size: CallSize) -> FlowCall:
        """A call of this size that is not recorded."""
        return FlowCall(self._net, self.pool, size, self._kernels, self.fused, self.fused_body)

    def _work(self, size: CallSize) -> int:
        return size.rows * size.chunks * self._net.chunk_frames

    def _record(self, size: CallSize) -> FlowCall:
        while len(self._recorded) >= max(1, self._most_graphs):
            self._recorded.popitem(last=False)
        call = self.new_call(size)
        self._net.time_table(size.steps)
        call.record(self._memory, self._stream)
        self._recorded[size] = call
        logger.debug("recorded flow calls of %s", size)
        return call
