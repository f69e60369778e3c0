"""One step on the device: from chosen rows of sequences to sampled ids.

On a GPU, once `capture` was called, steps are padded to recorded shapes (`padded_steps.py`), and the next may begin
before the ids of the last are known. Otherwise everything the device must know about a step travels in two small packed
copies, and the ids come back before anything else happens.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor

from light_tts.events import NO_PROGRESS, StartProgress
from light_tts.kernels.draw import MAX_TOP_K
from light_tts.kernels.recording import LLM_PRIORITY
from light_tts.llm.cuda_graph import GraphRecorder, why_not
from light_tts.llm.decode_script import ScriptedDecode, can_script
from light_tts.llm.decoding_group import NO_AHEAD_ROWS
from light_tts.llm.padded_step import PaddedStep, triton_kernels
from light_tts.llm.padded_steps import PaddedSteps, Record, batch_ladder, packed_ladder
from light_tts.llm.paged_attention import DecodeRows, PagedAttention, PagedKVCache, PrefillRows
from light_tts.llm.pending import PendingDraws, SampledToken
from light_tts.llm.random import uniforms
from light_tts.llm.sampler import Sampler, SamplingBatch
from light_tts.llm.scheduler import Chunk, StepPlan
from light_tts.llm.sequence import RowSampling, Sequence
from light_tts.llm.step_inputs import StepViews
from light_tts.models.device_errors import is_device_lost
from light_tts.models.nets.speech_lm import SpeechLM

logger = logging.getLogger(__name__)


class ModelRunner:
    """Owns the KV cache. Used by the engine's thread alone.

    num_blocks, block_tokens:  size of the cache.
    win_size, tau_r:           of the repetition rule.
    kv_int8:                   keep keys and values in int8.
    """

    def __init__(
        self,
        lm: SpeechLM,
        *,
        num_blocks: int,
        block_tokens: int,
        win_size: int,
        tau_r: float,
        kv_int8: bool = False,
    ) -> None:
        self.lm = lm
        config = lm.config
        self._device = lm.device
        self.cache = PagedKVCache(
            num_layers=config.num_layers,
            num_blocks=num_blocks,
            block_tokens=block_tokens,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            dtype=lm.dtype,
            device=self._device,
            is_int8=kv_int8,
        )
        self._sampler = Sampler(win_size=win_size, tau_r=tau_r, head_size=lm.ids.head_size, device=self._device)
        self._stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device, priority=LLM_PRIORITY)
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        self._padded: PaddedSteps | None = None
        self._has_captured = False
        self._decode = ScriptedDecode(lm, self.cache) if can_script(lm, self.cache) else None

    def capture(
        self,
        *,
        most_rows: int,
        most_packed_rows: int,
        most_running: int,
        most_tokens: int,
        warm_up_iterations: int = 1,
        overlaps: bool = False,
        progress: StartProgress = NO_PROGRESS,
    ) -> None:
        """Record steps as CUDA graphs; no step may be computed meanwhile.

        Does nothing the second time; where nothing can be recorded, the log says why, and steps are computed as before.

        most_rows:           sequences of a recorded step; a bigger step is computed in parts.
        most_packed_rows:    of a step with prompts in it.
        most_running:        sequences that may take part in one step.
        most_tokens:         of one sequence.
        warm_up_iterations:  runs of each step before it is recorded.
        overlaps:            try kernels that are launched before the one before has ended, where the GPU can.
        progress:            is told of each compiled kernel and each recorded step.
        """
        if self._has_captured or self._device.type != "cuda":
            return
        self._has_captured = True
        reason = why_not(self._device, self.lm.config.head_dim)
        if reason is not None:
            logger.warning("computing without CUDA graphs: %s", reason)
            return
        started_s, before_bytes = time.perf_counter(), torch.cuda.memory_reserved(self._device)
        try:
            with torch.inference_mode(), self._on_stream():
                versions = triton_kernels(self.lm, self._sampler, overlaps=overlaps)
                recorder = GraphRecorder(
                    [PaddedStep(self.lm, self.cache, kernels) for kernels in versions], warm_up_iterations
                )
                self._padded = PaddedSteps(
                    self.cache,
                    _told(recorder, len(batch_ladder(most_rows)) + len(packed_ladder(most_packed_rows)), progress),
                    win_size=self._sampler.win_size,
                    most_rows=most_rows,
                    most_packed_rows=most_packed_rows,
                    most_running=most_running,
                    most_tokens=most_tokens,
                    prepare=partial(recorder.prepare, progress),
                )
        # Whatever a compiler of kernels says on a machine that nobody has tried: speech is slower, but there is speech.
        except Exception as error:
            if is_device_lost(error):
                raise
            logger.warning("computing without CUDA graphs: recording failed (%s: %s)", type(error).__name__, error)
            return
        taken_mb = (torch.cuda.memory_reserved(self._device) - before_bytes) / 2**20
        elapsed_s = time.perf_counter() - started_s
        logger.info(
            "recorded %d CUDA graphs of the language model in %.1f s; %.0f MB; rows by kernels: %s",
            self._padded.num_shapes, elapsed_s, taken_mb, recorder.chosen,
        )  # fmt: skip

    @property
    def is_ahead(self) -> bool:
        """True when the next step may be launched before the ids of the last are known."""
        return self._padded is not None

    def runs_ahead(self, sampling: RowSampling) -> bool:
        """True when a row of such a sequence may be computed for a code that is not known yet."""
        return self._padded is not None and sampling.top_k <= MAX_TOP_K

    def launch(self, plan: StepPlan) -> list[PendingDraws]:
        """Begin to compute a step, and to sample where chunks reach the end of their sequence's rows."""
        with torch.inference_mode(), self._on_stream():
            if self._padded is None:
                return self._launch_packed(plan.chunks)
            others = [chunk for chunk in plan.chunks if not chunk.sequence.runs_ahead]
            padded = plan
            if others:
                padded = StepPlan(plan.ahead, [chunk for chunk in plan.chunks if chunk.sequence.runs_ahead])
            draws = [] if padded.is_empty else [self._padded.launch(padded)]
            return draws + (self._launch_packed(others) if others else [])

    def run(self, chunks: list[Chunk]) -> list[SampledToken]:
        """Compute the chunks and wait for what is sampled."""
        pending = self.launch(StepPlan(NO_AHEAD_ROWS, chunks))
        return [sampled for draws in pending for sampled in map(SampledToken, draws.chunks, draws.wait())]

    def _launch_packed(self, chunks: list[Chunk]) -> list[PendingDraws]:
        # Decoding rows first: they are attended together.
        chunks = sorted(chunks, key=lambda chunk: chunk.num_rows > 1)
        hidden = self.hidden(chunks, only_sampled=True)
        drawing = [chunk for chunk in chunks if chunk.samples]
        if not drawing:
            return []
        batch = self._sampling_batch([chunk.sequence for chunk in drawing])
        return [PendingDraws(drawing, self._sampler.sample(self.lm.logits(hidden), batch).tokens.cpu())]

    def note_codes(self, sequences: tuple[Sequence, ...], codes: list[int]) -> None:
        """Each sequence, whose rows were ahead (see `AheadRows`), has got the code that was drawn after its row."""
        if self._padded is not None:
            self._padded.note_codes(sequences, codes)

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        if self._padded is not None:
            self._padded.forget(sequence)

    def hidden(self, chunks: list[Chunk], *, only_sampled: bool = False) -> Tensor:
        """Final hidden states of the chunks' rows, or of those where a sample is read; one-row chunks come first."""
        num_decode = sum(chunk.num_rows == 1 for chunk in chunks)
        packed = _Packed()
        rows = packed.add([row for c in chunks for row in c.sequence.layout.rows[c.start : c.start + c.num_rows]])
        positions = packed.add([position for c in chunks for position in range(c.start, c.start + c.num_rows)])
        slots = packed.add(self._slots(chunks))
        last_rows = np.cumsum([chunk.num_rows for chunk in chunks]) - 1
        is_sampled = [not only_sampled or chunk.samples for chunk in chunks]
        selected = packed.add(last_rows[is_sampled])
        tables = [packed.add(self._block_table(chunks[:num_decode]))]
        tables += [packed.add(chunk.sequence.blocks[: self._num_blocks(chunk)]) for chunk in chunks[num_decode:]]
        views = packed.to(self._device)
        decode = self._decode_rows(chunks[:num_decode], views[tables[0]]) if num_decode else None
        prefills = self._prefill_rows(chunks, num_decode, [views[table] for table in tables[1:]])
        if self._decode is not None and decode is not None and not prefills:
            states = self._decode.hidden(views[rows], views[positions], views[slots], decode)
            return states if all(is_sampled) else states.index_select(0, views[selected])
        context = PagedAttention(self.cache, views[slots], decode, prefills)
        return self.lm.hidden(views[rows], views[positions], context, views[selected] if only_sampled else None)

    def scrub(self, blocks: list[int]) -> None:
        """Set pages to zero (see `PagedKVCache.scrub`)."""
        with torch.inference_mode(), self._on_stream():
            self.cache.scrub(blocks)

    def _on_stream(self) -> AbstractContextManager[None]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _num_blocks(self, chunk: Chunk) -> int:
        return -(-(chunk.start + chunk.num_rows) // self.cache.block_tokens)

    def _slots(self, chunks: list[Chunk]) -> list[int]:
        size = self.cache.block_tokens
        return [
            chunk.sequence.blocks[position // size] * size + position % size
            for chunk in chunks
            for position in range(chunk.start, chunk.start + chunk.num_rows)
        ]

    def _block_table(self, decodes: list[Chunk]) -> np.ndarray:
        """[count * num_blocks] pages of the decoding sequences, padded with the page of zeros."""
        shape = len(decodes), max(map(self._num_blocks, decodes), default=0)
        table = np.full(shape, self.cache.zero_page, dtype=np.int64)
        for row, chunk in zip(table, decodes, strict=True):
            count = self._num_blocks(chunk)
            row[:count] = chunk.sequence.blocks[:count]
        return table.reshape(-1)

    def _decode_rows(self, decodes: list[Chunk], blocks: Tensor) -> DecodeRows:
        lengths = [chunk.start + 1 for chunk in decodes]
        num_blocks = len(blocks) // len(decodes)
        num_slots = num_blocks * self.cache.block_tokens
        if min(lengths) == max(lengths):
            return DecodeRows(len(decodes), num_blocks, blocks, None, lengths[0])
        ends = _to_device(torch.tensor(lengths), self._device)
        visible = torch.arange(num_slots, device=self._device) < ends[:, None]
        return DecodeRows(len(decodes), num_blocks, blocks, visible[:, None, None], num_slots)

    def _prefill_rows(self, chunks: list[Chunk], num_decode: int, tables: list[Tensor]) -> list[PrefillRows]:
        result = []
        start = num_decode
        for chunk, blocks in zip(chunks[num_decode:], tables, strict=True):
            length = chunk.start + chunk.num_rows
            visible = None
            if chunk.start:
                visible = torch.ones(chunk.num_rows, length, dtype=torch.bool, device=self._device).tril(chunk.start)
            result.append(PrefillRows(start, start + chunk.num_rows, length, blocks, visible))
            start += chunk.num_rows
        return result

    def _sampling_batch(self, sequences: list[Sequence]) -> SamplingBatch:
        width = self._sampler.win_size
        packed = _Packed()
        keys = packed.add([sequence.key for sequence in sequences])
        steps = packed.add([len(sequence.layout.history) for sequence in sequences])
        top_k = packed.add([sequence.sampling.top_k for sequence in sequences])
        greedy = packed.add([sequence.sampling.greedy for sequence in sequences])
        blocked = packed.add([edge for s in sequences for limits in s.layout.blocked for edge in limits])
        window = packed.add([code for s in sequences for code in _window(s.layout.history, width)])
        views = packed.to(self._device)
        numbers = torch.tensor([(s.sampling.top_p, s.sampling.temperature) for s in sequences], dtype=torch.float32)
        numbers = _to_device(numbers, self._device)
        return SamplingBatch(
            blocked=views[blocked].view(-1, 4),
            window=views[window].view(-1, width),
            top_p=numbers[:, 0],
            top_k=views[top_k],
            max_top_k=max(sequence.sampling.top_k for sequence in sequences),
            temperature=numbers[:, 1] if any(s.sampling.temperature != 1.0 for s in sequences) else None,
            greedy=views[greedy].bool() if any(s.sampling.greedy for s in sequences) else None,
            uniforms=uniforms(views[keys], views[steps]),
        )


class _Packed:
    """Several lists of integers that travel to the device in one copy."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []

    def add(self, numbers: Seq[int] | np.ndarray) -> int:
        """Take a list; returns its place among the views."""
        self._parts.append(np.asarray(numbers, dtype=np.int64))
        return len(self._parts) - 1

    def to(self, device: torch.device) -> list[Tensor]:
        """The lists as [n] int64 tensors on the device."""
        everything = _to_device(torch.from_numpy(np.concatenate(self._parts)), device)
        return list(torch.split(everything, [len(part) for part in self._parts]))


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def _window(history: list[int], width: int) -> list[int]:
    """The last `width` ids, padded in front with an id that no draw equals."""
    last = history[-width:]
    return [-1] * (width - len(last)) + last


def _told(record: Record, total: int, progress: StartProgress) -> Record:
    """The same, and somebody is told how many of all steps have been recorded."""
    done = 0

    def told(views: StepViews) -> Callable[[], None]:
        nonlocal done
        replay = record(views)
        done += 1
        progress.recorded("language model", done, total)
        return replay

    return told
