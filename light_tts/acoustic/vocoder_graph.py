"""The vocoder on a GPU: calls recorded as CUDA graphs over a ladder of rows and lengths, states in a pool of slots.

Offers what `Vocoder` offers; the samples come back on the host, in one copy per call. A stream's samples do not depend
on who shares its call, and equal those of `Vocoder` up to rounding and the random numbers of the noise.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from light_tts.acoustic.vocoder import Vocoder, VocoderJob, WaveDecoder
from light_tts.acoustic.vocoder_causal_rows import CausalRows
from light_tts.acoustic.vocoder_overlap import Crossfade
from light_tts.acoustic.vocoder_overlap_rows import OverlapRows
from light_tts.acoustic.vocoder_pool import StatePool
from light_tts.acoustic.vocoder_rows import (
    FRAME_LADDER,
    ROW_LADDER,
    Row,
    SlotStream,
    frame_bucket,
    groups_of,
    row_bucket,
)
from light_tts.errors import EngineFailure
from light_tts.events import NO_PROGRESS, StartProgress
from light_tts.models.device_errors import is_device_lost
from light_tts.models.nets.hift import HiftNet
from light_tts.models.nets.hift_packed import HiftKernels, PackedHift
from light_tts.types import MEL_BINS

logger = logging.getLogger(__name__)

MOST_FRAMES = 4096  # of one call, padding included: what bounds the memory of its activations
# Lengths recorded ahead: those of whole chunks, and one for what is shorter. The rest is padded to them, or recorded
# when it is met.
_CAUSAL_FRAMES = (32, 48, 64, 128, 160, 208)
_SYMMETRIC_FRAMES = (32, 48, 64)
_MOST_PADDED = 1.5  # a recorded call that is larger than that is not used in place of one of the right size


class VocoderGraphs:
    """Batched incremental decoder. `decode` belongs to one thread; streams may be opened and closed by any.

    dtype:    of the generator's matrices and activations; float32 means TF32 products.
    slots:    streams that may be under way at once before the pool is made larger.
    records:  False runs the same calls without graphs (no GPU, or to compare).
    """

    def __init__(
        self,
        net: HiftNet,
        kernels: HiftKernels,
        *,
        crossfade: Literal["unity", "reference"] = "unity",
        dtype: torch.dtype = torch.float32,
        slots: int = 256,
        records: bool = True,
    ) -> None:
        self.net = net
        packed = PackedHift(net, kernels, dtype)
        self._rows: CausalRows | OverlapRows
        self._rows = CausalRows(packed) if net.is_causal else OverlapRows(packed, Crossfade.named(crossfade, net))
        self._pool = StatePool(self._rows.step.state_shapes(), slots, net.device)
        self._records = records
        self._mel = torch.zeros(MOST_FRAMES * MEL_BINS, device=net.device)
        self._integers = torch.zeros(ROW_LADDER[-1], self._rows.num_integers, dtype=torch.int64, device=net.device)
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._memory: Any = None
        self._is_full = False  # there was no memory for another recording

    @property
    def num_graphs(self) -> int:
        """Sizes recorded so far."""
        return len(self._graphs)

    def catalogue(self, max_rows: int = ROW_LADDER[-1]) -> list[tuple[int, int]]:
        """Rows and frames of the calls that streaming makes with up to so many streams, the largest first."""
        lengths = _CAUSAL_FRAMES if self.net.is_causal else _SYMMETRIC_FRAMES
        most = row_bucket(min(max_rows, ROW_LADDER[-1]))
        sizes = [(rows, frames) for rows in ROW_LADDER for frames in lengths if rows <= most]
        return sorted((size for size in sizes if size[0] * size[1] <= MOST_FRAMES), key=lambda size: -size[0] * size[1])

    @torch.inference_mode()
    def compile(self, max_rows: int = ROW_LADDER[-1]) -> None:
        """Compute a call of each size once, which compiles all kernels; other threads may be recording meanwhile."""
        for rows, frames in self.catalogue(max_rows):
            mel = torch.zeros(rows, frames, MEL_BINS, device=self.net.device)
            self._rows.step(mel, self._padding(rows).to(self.net.device), self._pool)

    def capture(self, max_rows: int = ROW_LADDER[-1], progress: StartProgress = NO_PROGRESS) -> None:
        """Record the catalogue; other sizes are recorded when first met. No other thread may be recording."""
        if not self._records:
            return
        started_s, before_bytes = time.perf_counter(), torch.cuda.memory_reserved(self.net.device)
        sizes = self.catalogue(max_rows)
        for done, size in enumerate(sizes, 1):
            self._graph(*size)
            progress.recorded("vocoder", done, len(sizes))
        taken_mb = (torch.cuda.memory_reserved(self.net.device) - before_bytes) / 2**20
        elapsed_s = time.perf_counter() - started_s
        logger.info("recorded %d CUDA graphs of the vocoder in %.1f s; %.0f MB", len(self._graphs), elapsed_s, taken_mb)

    def open(self, seed: int) -> SlotStream:
        """Begin an utterance; `seed` decides the noise of symmetric networks."""
        return SlotStream(seed, self._pool.give_back)

    @property
    def num_slots_used(self) -> int:
        """Streams that carry something on the device."""
        return self._pool.num_used

    @torch.inference_mode()
    def decode(self, jobs: Sequence[VocoderJob[SlotStream]]) -> list[Tensor]:
        """Decode the new pieces of several streams, each stream at most once per call; see `Vocoder.decode`.

        Returns [N] float32 on the host per job. When a call fails after some pieces have been decoded, the streams of
        these cannot go on: they raise EngineFailure when asked again.
        """
        queues = [self._rows.pieces_of(job) for job in jobs]
        waiting = [(list(job.stream.pending), job.stream.received) for job in jobs]
        parts: list[list[Tensor]] = [[] for _ in jobs]
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
        return [torch.cat(part) if part else torch.empty(0) for part in parts]

    def _turn(
        self,
        jobs: Sequence[VocoderJob[SlotStream]],
        queues: list[list[Tensor]],
        turn: int,
        parts: list[list[Tensor]],
        touched: set[int],
    ) -> None:
        rows: dict[int, Row] = {}
        for index, (job, queue) in enumerate(zip(jobs, queues, strict=True)):
            if turn >= len(queue):
                continue
            if job.stream.is_lost or job.stream.is_closed:
                raise EngineFailure("This vocoder stream has ended; open a new one.")
            is_final = job.is_final and turn == len(queue) - 1
            row = self._rows.row_of(job.stream, queue[turn].to(self.net.device), is_final, self._slot)
            if row is not None:
                rows[index] = row
            elif is_final and job.stream.slot is not None:
                parts[index].append(self._rows.held_back(job.stream, self._pool))
        owner = {id(row): index for index, row in rows.items()}
        for group in groups_of(list(rows.values()), MOST_FRAMES):
            touched.update(owner[id(row)] for row in group)
            for row, samples in zip(group, self._run(group), strict=True):
                self._rows.settle(row)
                parts[owner[id(row)]].append(self._rows.finished(row, samples))

    def _slot(self, stream: SlotStream) -> int:
        if stream.slot is None:
            stream.slot = self._pool.take()
            if stream.slot is None:
                self._pool.grow()
                # They point at the old tensors; each size is recorded again when met, into memory of its own: a pool
                # that no recording uses is gone for good.
                self._graphs.clear()
                self._memory = None
                logger.warning("the vocoder makes room for %d streams", self._pool.dump_slot)
                stream.slot = self._pool.take()
        assert stream.slot is not None
        return stream.slot

    def _run(self, group: Sequence[Row]) -> list[Tensor]:
        """Samples [row.begin : row.end] of each row, on the host."""
        frames = frame_bucket(max(row.frames for row in group))
        num_rows = row_bucket(len(group))
        is_recorded = self._records and frames <= FRAME_LADDER[-1] and num_rows * frames <= MOST_FRAMES
        recorded = self._recorded(num_rows, frames) if is_recorded else None
        if recorded is not None:
            num_rows, frames = recorded
        integers = self._padding(num_rows)
        integers[: len(group)] = torch.tensor([row.integers for row in group])
        if recorded is not None:
            graph, samples = self._graphs[recorded]
            self._fill(self._view(num_rows, frames), group)
            self._integers[:num_rows].copy_(integers.pin_memory(), non_blocking=True)
            graph.replay()
        else:
            mel = torch.zeros(num_rows, frames, MEL_BINS, device=self.net.device)
            self._fill(mel, group)
            samples = self._rows.step(mel, integers.to(self.net.device), self._pool)
        on_host = samples[: len(group), : max(row.end for row in group)].cpu()
        return [on_host[index, row.begin : row.end].clone() for index, row in enumerate(group)]

    def _padding(self, rows: int) -> Tensor:
        """Integers of rows that only fill a call."""
        return torch.tensor([(self._pool.dump_slot, *self._rows.padding)] * rows, dtype=torch.int64)

    def _recorded(self, rows: int, frames: int) -> tuple[int, int] | None:
        """The recorded size to use for so many rows and frames, recorded now if need be; None: compute."""
        size = recorded_size(self._graphs, rows, frames)
        if size is not None or self._is_full:
            return size
        try:
            self._graph(rows, frames)
        except RuntimeError as error:  # out of memory, most likely; the call can still be computed
            if is_device_lost(error):
                raise
            logger.warning("no more vocoder calls are recorded as CUDA graphs: %s", error)
            self._is_full = True
            return None
        return rows, frames

    def _fill(self, mel: Tensor, group: Sequence[Row]) -> None:
        mel.zero_()
        for index, row in enumerate(group):
            mel[index, row.frames - row.mel.shape[1] : row.frames] = row.mel.T

    def _view(self, rows: int, frames: int) -> Tensor:
        return self._mel[: rows * frames * MEL_BINS].view(rows, frames, MEL_BINS)

    def _graph(self, rows: int, frames: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """The recorded call of a size; recorded now when it was not."""
        known = self._graphs.get((rows, frames))
        if known is not None:
            return known
        mel, integers = self._view(rows, frames), self._integers[:rows]
        with torch.inference_mode():
            mel.zero_()
            integers.copy_(self._padding(rows))
            self._rows.step(mel, integers, self._pool)  # compiles kernels and makes handles, which no recording may
            torch.cuda.synchronize(self.net.device)
            if self._memory is None:
                self._memory = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # Another thread may be computing at the same time, on a stream of its own.
            with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
                samples = self._rows.step(mel, integers, self._pool)
        self._graphs[rows, frames] = graph, samples
        return graph, samples


def recorded_size(sizes: Iterable[tuple[int, int]], rows: int, frames: int) -> tuple[int, int] | None:
    """The smallest of the recorded (rows, frames) that a call fits into without much padding; None: there is none."""
    fitting = [
        size
        for size in sizes
        if size[0] >= rows and size[1] >= frames and size[0] * size[1] <= _MOST_PADDED * rows * frames
    ]
    return min(fitting, key=lambda size: size[0] * size[1], default=None)


def fastest_vocoder(
    net: HiftNet,
    *,
    crossfade: Literal["unity", "reference"],
    dtype: torch.dtype,
    max_rows: int = ROW_LADDER[-1],
    records: bool = True,
) -> WaveDecoder:
    """One whose calls can be recorded on a GPU, compiled; the plain one elsewhere, without Triton, or not `records`.

    max_rows:  streams of one call, at most.
    """
    if net.device.type != "cuda" or not records:
        return Vocoder(net, crossfade=crossfade)
    try:
        from light_tts.models.nets.hift_packed import triton_kernels

        vocoder = VocoderGraphs(net, triton_kernels(), crossfade=crossfade, dtype=dtype)
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
