"""Flow calls of a catalogue of sizes, recorded before anybody listens; what fits none of them is computed."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from copy import copy
from functools import partial

import torch
from torch import Tensor

from light_tts.acoustic.call_log import CallLog
from light_tts.acoustic.concave_fit import fit_concave
from light_tts.acoustic.flow_batch import FlowRow
from light_tts.acoustic.flow_call import FlowCall
from light_tts.acoustic.flow_inputs import InputMemory
from light_tts.acoustic.flow_pages import PagedStates, PagePool
from light_tts.acoustic.flow_runner import FlowRunner, PlainRunner
from light_tts.acoustic.flow_schedule import Schedule
from light_tts.acoustic.flow_sizes import (
    ANY_PAST,
    BodySight,
    CallSize,
    RowSize,
    SizeTable,
    catalogue,
    quick_catalogue,
    telling_sizes,
)
from light_tts.events import NO_PROGRESS, StartProgress
from light_tts.kernels.compile_ahead import KernelsAhead, begin_compiling
from light_tts.kernels.flow_kernels import FlowKernels, triton_kernels
from light_tts.kernels.overlapping import can_overlap
from light_tts.kernels.recording import ACOUSTIC_PRIORITY, EXPRESS_PRIORITY, record_graph
from light_tts.models.nets.flow_net import MAX_FRAMES, FlowNet
from light_tts.models.nets.fuse import fuse, fuse_body, why_body_not_fused, why_not_fused
from light_tts.types import FRAMES_PER_TOKEN

logger = logging.getLogger(__name__)

RECORD_BUDGET_S = 45.0  # of the start; the sizes that are then missing are shared out among the others
_FEWEST_PRICES = 4  # sizes whose times say what the others cost
_LEAST_ALIKE = 8  # rows x chunks from which calls of a magnitude have the same kernels
_MOST_FAILURES = 3  # sizes that could not be recorded; no more is tried then
# What is tried in this order: its name, whether the estimator is fused, whether its kernels overlap.
_KINDS = (("overlapping kernels", True, True), ("fused kernels", True, False), ("CUDA graphs", False, False))


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


class RunnerSearch:
    """The fastest runner that works here; says in the log why a GPU gets the plain one.

    In two parts, so that others may record while the kernels of its calls are being compiled. Both belong to the
    thread on which everything is recorded.

    cache_bytes:  of all kept states.
    steps:        of the calls whose states may be kept, at most.
    most_graphs:  recorded calls; 0: the plain runner.
    max_rows:     of the calls whose kernels are compiled ahead.
    int8_states:  keep keys and values in int8; not where the plain runner computes.
    may_overlap:  try kernels that are launched before the one before has ended, where the GPU can.
    calls:        see PagePool.
    """

    def __init__(
        self,
        net: FlowNet,
        *,
        cache_bytes: int,
        steps: int,
        most_graphs: int,
        max_rows: int = 1,
        int8_states: bool = False,
        may_overlap: bool = False,
        calls: CallLog | None = None,
    ) -> None:
        self._net, self._may_overlap = net, may_overlap
        self._max_rows, self._most_graphs = max_rows, most_graphs
        self._new_runner = partial(
            PagedRunner,
            net,
            cache_bytes=cache_bytes,
            steps=steps,
            most_graphs=most_graphs,
            int8_states=int8_states,
            calls=calls,
        )
        self._kinds = self._kinds_to_try() if net.device.type == "cuda" and most_graphs else iter(())
        self._candidate: tuple[str, PagedRunner] | None = None

    def begin(self) -> None:
        """Make the next candidate, and begin to compile the kernels of its calls."""
        self._candidate = None  # its memory is for the next one
        for name, fuses, overlaps in self._kinds:
            try:
                runner = self._new_runner(kernels=triton_kernels(overlaps=overlaps), fuses=fuses)
                runner.begin_compiling(runner.sizes(self._max_rows)[: self._most_graphs])
                self._candidate = name, runner
                return
            except Exception as error:  # whatever Triton or the driver says: speaking slowly is better than not at all
                _warn_of_failure(name, error)

    def result(self) -> FlowRunner:
        """The runner, its first call recorded."""
        if self._candidate is None:
            self.begin()
        while self._candidate is not None:
            if _can_record(*self._candidate):
                return self._candidate[1]
            self.begin()
        return PlainRunner(self._net)

    def _kinds_to_try(self) -> Iterator[tuple[str, bool, bool]]:
        reason = why_not(self._net)
        if reason is not None:
            logger.warning("flow calls are not recorded as CUDA graphs: %s", reason)
            return
        for name, fuses, overlaps in _KINDS:
            if not overlaps or (self._may_overlap and can_overlap(self._net.device)):
                yield name, fuses, overlaps


def _can_record(name: str, runner: PagedRunner) -> bool:
    try:
        runner.record(runner.sizes(max_rows=1)[:1])
    except Exception as error:  # as above
        _warn_of_failure(name, error)
        return False
    return True


def _warn_of_failure(name: str, error: Exception) -> None:
    logger.warning("flow calls do without %s: %s: %s", name, type(error).__name__, error)


class PagedRunner:
    """FlowRunner whose states lie in pages, and whose calls are recorded on a GPU.

    cache_bytes:  of all pages.
    steps:        evaluations that a page has room for.
    most_graphs:  recorded calls at most; 0: none is recorded.
    fuses:        compute the estimator with fused kernels where they take it; False: the network as it is.
    int8_states:  keep the estimator's keys and values in int8.
    calls:        see PagePool.
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
        int8_states: bool = False,
        calls: CallLog | None = None,
    ) -> None:
        self.pool = PagePool(net, cache_bytes, steps=steps, is_int8=int8_states, calls=calls)
        self._net, self._kernels, self._most_graphs = net, kernels, most_graphs
        reason = why_not_fused(net) if fuses else "it was asked for so"
        if reason is not None:
            logger.info("the flow's estimator is computed as it is: %s", reason)
        self.fused = fuse(net, kernels) if reason is None else None
        can_fuse_body = fuses and why_body_not_fused(net) is None
        self.fused_body = fuse_body(net, kernels) if can_fuse_body else None
        self._sight = BodySight(
            attends=net.body.shape.token_layers > 0,
            reach_chunks=0 if self.fused_body is None else self.fused_body.reach // net.chunk_frames,
            most_chunks=-(-MAX_FRAMES // net.chunk_frames),
        )
        self._met: set[Hashable] = set()  # kinds of sizes whose kernels are compiled, or are being compiled
        self._compiling: list[KernelsAhead] = []
        net.noise  # noqa: B018 - copied to the device now, which no recording may do
        self._most_chunks: int | None = None  # of the calls that are recorded; None: what hops of all kinds need
        self._equip(InputMemory(net), ACOUSTIC_PRIORITY)

    def beside(self, max_rows: int, most_chunks: int) -> PagedRunner:
        """Another one over the same pages, for small calls of its own that run at the same time on another stream.

        max_rows, most_chunks:  of the calls to be recorded; larger ones are computed.
        """
        other = copy(self)
        other._most_chunks = most_chunks
        other._equip(InputMemory(self._net, rows=max_rows, chunks=max_rows * most_chunks), EXPRESS_PRIORITY)
        return other

    def _equip(self, inputs: InputMemory, priority: int) -> None:
        """Get all that belongs to one stream of calls."""
        self._inputs, self._schedule = inputs, Schedule(self._net, self.pool.steps)
        self._table = SizeTable(self._sight, self._net.chunk_frames)
        self._recorded: dict[CallSize, FlowCall] = {}
        if self._most_graphs:
            self._memory = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream(priority=priority)
            # A memory pool that no recording uses is gone for good: this one keeps it.
            device = self._net.device
            self._anchor = record_graph(lambda: torch.zeros(1, device=device), self._memory, self._stream)

    @property
    def num_recorded(self) -> int:
        """Recorded calls."""
        return len(self._recorded)

    def states_bytes(self, num_tokens: int, steps: int) -> int:
        """See FlowRunner."""
        return num_tokens // self.pool.chunk_tokens * self.pool.page_bytes

    def allocate(self, num_tokens: int, steps: int) -> PagedStates | None:
        """See FlowRunner."""
        return self.pool.allocate(num_tokens) if steps <= self.pool.steps else None

    def groups(self, rows: Sequence[FlowRow]) -> list[list[int]]:
        """See FlowRunner."""
        return self._table.groups([self._row_size(row) for row in rows])

    @torch.inference_mode()
    def run(self, rows: Sequence[FlowRow], *, steps: int, is_chunked: bool) -> list[Tensor]:
        """See FlowRunner."""
        sizes = [self._row_size(row) for row in rows]
        chunks, past = max(size.chunks for size in sizes), max(size.past for size in sizes)
        _, size = self._table.cheapest(len(rows), chunks, past)
        if size is None:
            call = self.new_call(CallSize(len(rows), chunks, self._sight.pages(chunks, past)))
        else:
            call = self._recorded[size]
        mel = call.run(rows, steps=steps, is_chunked=is_chunked)
        return [mel[index, : FRAMES_PER_TOKEN * row.num_tokens] for index, row in enumerate(rows)]

    def sizes(self, max_rows: int) -> list[CallSize]:
        """Sizes worth recording for calls of up to so many rows, the most useful first."""
        if self._most_chunks is not None:
            return quick_catalogue(self._sight, max_rows=max_rows, most_chunks=self._most_chunks)
        return catalogue(self._sight, chunk_frames=self._net.chunk_frames, max_rows=max_rows)

    def warm_up(self, max_rows: int, progress: StartProgress = NO_PROGRESS) -> None:
        """See FlowRunner."""
        self.record(self.sizes(max_rows), progress)
        self._price()

    def _price(self) -> None:
        """Time some of the recorded calls: rows are shared out among them by what they cost."""
        sizes = telling_sizes(self._recorded)
        if len(sizes) < _FEWEST_PRICES:
            return
        frames = [float(size.rows * size.chunks * self._net.chunk_frames) for size in sizes]
        seconds = [self._recorded[size].measure_s() for size in sizes]
        curve = fit_concave([(*point, 1.0) for point in zip(frames, seconds, strict=True)], frames)
        self._table.price(curve.at)
        logger.info(
            "flow calls take %s",
            ", ".join(
                f"{1e3 * taken:.1f} ms ({size.rows} x {size.chunks})"
                for size, taken in zip(sizes, seconds, strict=True)
            ),
        )

    @torch.inference_mode()
    def record(
        self, sizes: Iterable[CallSize], progress: StartProgress = NO_PROGRESS, *, budget_s: float = RECORD_BUDGET_S
    ) -> None:
        """Record calls ahead, while there is time; those that cannot be are left out.

        sizes:  the most useful first; as many as may be recorded.
        Raises what the driver or the compiler raises when nothing at all can be recorded.
        """
        wanted = [size for size in dict.fromkeys(sizes) if size not in self._recorded]
        wanted = wanted[: max(0, self._most_graphs - len(self._recorded))]
        if not wanted:
            return
        self._compile(wanted, progress)
        # The largest first: the others find their memory in what it leaves behind.
        largest = max(wanted, key=lambda size: size.rows * size.chunks)
        wanted.sort(key=lambda size: size != largest)
        started_s, free_bytes = time.perf_counter(), torch.cuda.mem_get_info(self._net.device)[0]
        before, failures = len(self._recorded), 0
        for done, size in enumerate(wanted, 1):
            try:
                self._record(size)
            except Exception as error:  # whatever Triton or the driver says, most likely out of memory
                failures += 1
                if not self._recorded:
                    raise
                logger.warning("flow calls of %s are not recorded: %s: %s", size, type(error).__name__, error)
            progress.recorded("flow", done, len(wanted))
            if failures == _MOST_FAILURES or time.perf_counter() - started_s > budget_s:
                break
        elapsed_s, num_new = time.perf_counter() - started_s, len(self._recorded) - before
        taken_mb = (free_bytes - torch.cuda.mem_get_info(self._net.device)[0]) / 2**20
        logger.info("recorded %d CUDA graphs of flow calls in %.1f s; %.0f MB", num_new, elapsed_s, taken_mb)
        if num_new < len(wanted):
            logger.warning(
                "%d sizes of flow calls are not recorded; they run as several calls, or are computed kernel by kernel",
                len(wanted) - num_new,
            )

    def begin_compiling(self, sizes: Iterable[CallSize]) -> None:
        """Begin to compile the kernels of calls of these sizes, unless that was begun before."""
        kinds = {_kind_of(size): size for size in sizes}
        new = [size for kind, size in kinds.items() if kind not in self._met]
        if not new:
            return
        self._met.update(kinds)

        def meet_kernels() -> None:
            self._stream.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(self._stream):  # what it leaves in the allocator's cache is for the recordings
                    for size in new:
                        self.new_call(size).compute_briefly()
            finally:
                self._stream.synchronize()  # the calls that follow write to the same inputs

        self._compiling.append(begin_compiling("flow", meet_kernels))

    def _compile(self, sizes: Iterable[CallSize], progress: StartProgress) -> None:
        """Have the kernels of calls of these sizes compiled."""
        self.begin_compiling(sizes)
        for kernels in self._compiling:
            kernels.wait(progress)
        self._compiling.clear()

    def new_call(self, size: CallSize) -> FlowCall:
        """A call of this size that is not recorded."""
        return FlowCall(
            self._net,
            self.pool,
            size,
            self._kernels,
            fused=self.fused,
            fused_body=self.fused_body,
            memory=self._inputs,
            schedule=self._schedule,
        )

    def size_for(self, rows: int, chunks: int, past: int) -> CallSize:
        """The size of exactly so many rows, new chunks and chunks of past."""
        return CallSize(rows, chunks, self._sight.pages(chunks, past))

    def _row_size(self, row: FlowRow) -> RowSize:
        chunk_tokens = self.pool.chunk_tokens
        past = sum(states.num_tokens for states in row.past)
        return RowSize(-(-row.num_tokens // chunk_tokens), past // chunk_tokens)

    def _record(self, size: CallSize) -> None:
        call = self.new_call(size)
        call.record(self._memory, self._stream)
        self._recorded[size] = call
        self._table.add([size])
        logger.debug("recorded flow calls of %s", size)


def _kind_of(size: CallSize) -> Hashable:
    """Calls of a kind have nearly the same kernels: of those with little work each is a kind, of others a magnitude."""
    work = size.rows * size.chunks
    shape = (size.rows, size.chunks) if work < _LEAST_ALIKE else (size.rows == 1, work.bit_length())
    return shape, size.past_pages == ANY_PAST
