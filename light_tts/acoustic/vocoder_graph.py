"""The vocoder on a GPU: calls recorded as CUDA graphs over a ladder of rows and lengths, states in a pool of slots.

Offers what `Vocoder` offers; the samples come back on the host, in one copy per call. A stream's samples do not depend
on who shares its call, and equal those of `Vocoder` up to rounding and the random numbers of the noise. Everything is
recorded ahead: recording in service would let all listeners wait.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from functools import lru_cache, partial
from typing import Any, Literal

import torch
from torch import Tensor

from light_tts.acoustic.call_log import CallLog
from light_tts.acoustic.pending_samples import HostCopy, Part, PendingSamples
from light_tts.acoustic.vocoder import Vocoder, VocoderJob, WaveDecoder
from light_tts.acoustic.vocoder_causal_rows import CausalRows
from light_tts.acoustic.vocoder_overlap import Crossfade
from light_tts.acoustic.vocoder_overlap_rows import OverlapRows
from light_tts.acoustic.vocoder_pool import StatePool
from light_tts.acoustic.vocoder_rows import Row, SlotStream, groups_of
from light_tts.acoustic.vocoder_sizes import MOST_FRAMES, ROWS, Size, recorded_size, rows_for
from light_tts.errors import EngineFailure
from light_tts.events import NO_PROGRESS, StartProgress
from light_tts.kernels.compile_ahead import compile_ahead
from light_tts.kernels.recording import ACOUSTIC_PRIORITY, EXPRESS_PRIORITY, record_graph
from light_tts.models.device_errors import is_device_lost
from light_tts.models.nets.hift import HiftNet
from light_tts.models.nets.hift_packed import HiftKernels, PackedHift
from light_tts.types import MEL_BINS

logger = logging.getLogger(__name__)

SLOTS = 256
# The memory of recordings is made of blocks that hold whole numbers of the largest tensors of every stage; above 512 MB
# the allocator would not cut them.
_BLOCK_BYTES = 480 * 2**20


class VocoderGraphs:
    """Batched incremental decoder. `decode` belongs to one thread; streams may be opened and closed by any.

    dtype:    of the generator's matrices and activations; float32 means TF32 products.
    slots:    streams whose states have a place of their own, at least those of one call; more are moved about.
    records:  False runs the same calls without graphs (no GPU, or to compare).
    calls:    see StatePool.
    """

    def __init__(
        self,
        net: HiftNet,
        kernels: HiftKernels,
        *,
        crossfade: Literal["unity", "reference"] = "unity",
        dtype: torch.dtype = torch.float32,
        slots: int = SLOTS,
        records: bool = True,
        calls: CallLog | None = None,
    ) -> None:
        self.net = net
        packed = PackedHift(net, kernels, dtype)
        self._rows: CausalRows | OverlapRows
        self._rows = CausalRows(packed) if net.is_causal else OverlapRows(packed, Crossfade.named(crossfade, net))
        self._pool = StatePool(self._rows.step.state_shapes(), slots, net.device, calls)
        self._records = records
        self._equip(ROWS[-1], MOST_FRAMES, ACOUSTIC_PRIORITY)

    def beside(self, max_rows: int, most_frames: int) -> VocoderGraphs:
        """Another one for the same streams, each of which only one may have at a time: its calls run on another stream.

        max_rows, most_frames:  rows, and frames of each, of the calls to be recorded; larger ones are computed.
        """
        other = copy(self)
        other._equip(rows_for(max_rows), rows_for(max_rows) * most_frames, EXPRESS_PRIORITY, most_frames)
        return other

    def _equip(self, rows: int, frames: int, priority: int, longest: int = MOST_FRAMES) -> None:
        """Get all that belongs to one stream of calls: rows, and frames of all together, of those to be recorded."""
        device, per_frame = self.net.device, self.net.samples_per_frame
        self._longest, self._priority = longest, priority
        self._mel = torch.zeros(frames * MEL_BINS, device=device)
        self._integers = torch.zeros(rows, self._rows.num_integers, dtype=torch.int64, device=device)
        # Causal rows give one frame more than they are given.
        self._samples = torch.zeros((frames + rows) * per_frame, device=device)
        self._graphs: dict[Size, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._recorded_size = lru_cache(maxsize=1024)(partial(recorded_size, self._graphs))
        self._memory: Any = None

    @property
    def num_graphs(self) -> int:
        """Sizes recorded so far."""
        return len(self._graphs)

    def catalogue(self, max_rows: int = ROWS[-1]) -> list[Size]:
        """Sizes of all calls to be recorded with up to so many rows, the largest first."""
        return [size for size in self._rows.ladder.sizes(max_rows) if size[1] <= self._longest]

    @torch.inference_mode()
    def compile(self, max_rows: int = ROWS[-1]) -> None:
        """Compile all kernels and compute the largest and the smallest call; others may be recording meanwhile."""
        sizes = self.catalogue(max_rows)
        # Kernels differ with the work of a call, and calls of one row have some of their own.
        telling = [size for size in sizes if size == sizes[0] or size[0] <= 2]
        compile_ahead("vocoder", lambda: self._compute_padding(telling))
        self._compute_padding([sizes[0], sizes[-1]])

    def _compute_padding(self, sizes: Iterable[tuple[int, int]]) -> None:
        for rows, frames in sizes:
            mel = torch.zeros(rows, frames, MEL_BINS, device=self.net.device)
            self._rows.step(mel, self._padding(rows).to(self.net.device), self._pool)

    @torch.inference_mode()
    def capture(self, max_rows: int = ROWS[-1], progress: StartProgress = NO_PROGRESS) -> None:
        """Record the catalogue; what is not recorded is computed. No other thread may be recording.

        Raises RuntimeError when nothing can be recorded.
        """
        if not self._records:
            return
        device = self.net.device
        torch.cuda.empty_cache()
        started_s, before_bytes = time.perf_counter(), torch.cuda.memory_reserved(device)
        sizes = self.catalogue(max_rows)
        stream = torch.cuda.Stream(device, priority=self._priority)
        for done, size in enumerate(sizes, 1):
            try:
                self._record(size, stream)
            except RuntimeError as error:  # out of memory, most likely; calls can still be computed
                if is_device_lost(error) or not self._graphs:
                    raise
                logger.warning("no more vocoder calls are recorded as CUDA graphs: %s", error)
                break
            progress.recorded("vocoder", done, len(sizes))
        torch.cuda.empty_cache()
        taken_mb = (torch.cuda.memory_reserved(device) - before_bytes) / 2**20
        elapsed_s = time.perf_counter() - started_s
        logger.info("recorded %d CUDA graphs of the vocoder in %.1f s; %.0f MB", len(self._graphs), elapsed_s, taken_mb)

    def open(self, seed: int) -> SlotStream:
        """Begin an utterance; `seed` decides the noise of symmetric networks."""
        return SlotStream(seed, self._pool.open())

    @property
    def num_slots_used(self) -> int:
        """Streams that carry something on the device."""
        return self._pool.num_used

    def decode(self, jobs: Sequence[VocoderJob[SlotStream]]) -> list[Tensor]:
        """Decode the new pieces of several streams, each stream at most once per call; see `Vocoder.decode`.

        Returns [N] float32 on the host per job. Raises what `launch` raises.
        """
        return [samples.fetch() for samples in self.launch(jobs)]

    @torch.inference_mode()
    def launch(self, jobs: Sequence[VocoderJob[SlotStream]]) -> list[PendingSamples]:
        """See WaveDecoder. When a call fails after some pieces have been decoded, the streams of
        these cannot go on: they raise EngineFailure when asked again.
        """
        queues = [self._rows.pieces_of(job) for job in jobs]
        waiting = [(list(job.stream.pending), job.stream.received) for job in jobs]
        parts: list[list[Part]] = [[] for _ in jobs]
        touched: set[int] = set()
        try:
            for turn in range(max(map(len, queues), default=0)):
                self._turn(jobs, queues, turn, parts, touched)
        except BaseException:
            for index, (job, (pending, received)) in enumerate(zip(jobs, waiting, strict=True)):
                if index in touched:
                    job.stream.is_lost = True
                else:
                    job.stream.pending, job.stream.received = pending, received
            raise
        for job in jobs:
            if job.is_final:
                job.stream.close()
        return [PendingSamples(part) for part in parts]

    def _turn(
        self,
        jobs: Sequence[VocoderJob[SlotStream]],
        queues: list[list[Tensor]],
        turn: int,
        parts: list[list[Part]],
        touched: set[int],
    ) -> None:
        rows: dict[int, Row] = {}
        for index, (job, queue) in enumerate(zip(jobs, queues, strict=True)):
            if turn >= len(queue):
                continue
            if job.stream.is_lost or job.stream.is_closed:
                raise EngineFailure("This vocoder stream has ended; open a new one.")
            is_final = job.is_final and turn == len(queue) - 1
            row = self._rows.row_of(job.stream, queue[turn].to(self.net.device), is_final)
            if row is not None:
                rows[index] = row
            elif is_final and job.stream.piece:
                [slot] = self._pool.seat([job.stream.seat])
                held_back = self._rows.held_back(slot, self._pool)
                parts[index].append(Part(held_back.numel(), HostCopy(held_back).wait))
        owner = {id(row): index for index, row in rows.items()}
        for group in groups_of(list(rows.values()), self._rows.ladder):
            touched.update(owner[id(row)] for row in group)
            samples = self._run(group)
            for place, row in enumerate(group):
                self._rows.settle(row)
                fetch = partial(_fetch_row, samples, place, row, self._rows.finisher(row))
                parts[owner[id(row)]].append(Part(row.end - row.begin, fetch))

    def _run(self, group: Sequence[Row]) -> HostCopy:
        """Samples of all rows, on their way to the host."""
        wanted = rows_for(len(group)), self._rows.ladder.length_for(max(row.frames for row in group))
        recorded = self._recorded_size(wanted)
        num_rows, frames = recorded or wanted
        slots = self._pool.seat([row.stream.seat for row in group])
        integers = self._padding(num_rows)
        integers[: len(group)] = torch.tensor([(slot, *row.integers) for slot, row in zip(slots, group, strict=True)])
        if recorded is not None:
            graph, samples = self._graphs[recorded]
            self._fill(self._view(num_rows, frames), group)
            self._integers[:num_rows].copy_(integers.pin_memory(), non_blocking=True)
            graph.replay()
        else:
            mel = torch.zeros(num_rows, frames, MEL_BINS, device=self.net.device)
            self._fill(mel, group)
            samples = self._rows.step(mel, integers.to(self.net.device), self._pool)
        return HostCopy(samples[: len(group), : max(row.end for row in group)])

    def _padding(self, rows: int) -> Tensor:
        """Integers of rows that only fill a call."""
        return torch.tensor([(self._pool.dump_slot, *self._rows.padding)] * rows, dtype=torch.int64)

    def _fill(self, mel: Tensor, group: Sequence[Row]) -> None:
        mel.zero_()
        for index, row in enumerate(group):
            mel[index, row.frames - row.mel.shape[1] : row.frames] = row.mel.T

    def _view(self, rows: int, frames: int) -> Tensor:
        return self._mel[: rows * frames * MEL_BINS].view(rows, frames, MEL_BINS)

    def _record(self, size: Size, stream: torch.cuda.Stream) -> None:
        device, (rows, frames) = self.net.device, size
        mel, integers = self._view(rows, frames), self._integers[:rows]
        mel.zero_()
        integers.copy_(self._padding(rows))
        work_bytes = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        shape = self._rows.step(mel, integers, self._pool).shape  # compiles kernels and makes handles
        torch.cuda.current_stream(device).synchronize()
        work_bytes = torch.cuda.max_memory_allocated(device) - work_bytes
        samples = self._samples[: shape.numel()].view(shape)
        is_first = self._memory is None
        if is_first:
            self._memory = torch.cuda.graph_pool_handle()

        def compute() -> None:
            if is_first:  # and largest: pieces that its stages would ask for one by one do not fit into each other
                sizes = [min(_BLOCK_BYTES, work_bytes - taken) for taken in range(0, work_bytes, _BLOCK_BYTES)]
                blocks = [torch.empty(size, dtype=torch.uint8, device=device) for size in sizes]
                del blocks
            samples.copy_(self._rows.step(mel, integers, self._pool))

        self._graphs[size] = record_graph(compute, self._memory, stream), samples
        self._recorded_size.cache_clear()


def _fetch_row(samples: HostCopy, place: int, row: Row, finish: Callable[[Tensor], Tensor]) -> Tensor:
    # Copied, or a listener's samples would keep those of all rows.
    # By numpy: torch would wake threads for a long row, and waiting for them takes longer.
    return finish(torch.from_numpy(samples.wait().numpy()[place, row.begin : row.end].copy()))


def fastest_vocoder(
    net: HiftNet,
    *,
    crossfade: Literal["unity", "reference"],
    dtype: torch.dtype,
    max_rows: int = ROWS[-1],
    slots: int = SLOTS,
    records: bool = True,
    calls: CallLog | None = None,
) -> WaveDecoder:
    """One whose calls can be recorded on a GPU, compiled; the plain one elsewhere, without Triton, or not `records`.

    max_rows:      streams of one call, at most.
    slots, calls:  see VocoderGraphs.
    """
    if net.device.type != "cuda" or not records:
        return Vocoder(net, crossfade=crossfade)
    try:
        from light_tts.models.nets.hift_packed import triton_kernels

        vocoder = VocoderGraphs(net, triton_kernels(), crossfade=crossfade, dtype=dtype, slots=slots, calls=calls)
        vocoder.compile(max_rows)
    except Exception as error:  # an accelerator that may be missing, or fail to compile for this GPU
        if is_device_lost(error):
            raise
        logger.warning("the vocoder runs without CUDA graphs: %s: %s", type(error).__name__, error)
        return Vocoder(net, crossfade=crossfade)
    return vocoder


def record_ahead(
    vocoder: WaveDecoder,
    *,
    crossfade: Literal["unity", "reference"],
    max_rows: int,
    progress: StartProgress = NO_PROGRESS,
) -> WaveDecoder:
    """Record what streaming needs, where anything is recorded; the plain vocoder when that fails."""
    if not isinstance(vocoder, VocoderGraphs):
        return vocoder
    try:
        vocoder.capture(max_rows, progress)
    except Exception as error:  # whatever the driver says on a machine that nobody has tried
        if is_device_lost(error):
            raise
        logger.warning("the vocoder runs without CUDA graphs: %s: %s", type(error).__name__, error)
        return Vocoder(vocoder.net, crossfade=crossfade)
    return vocoder
