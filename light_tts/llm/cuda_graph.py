"""Decoding steps recorded as CUDA graphs: embedding, all layers, head and sampling in one launch.

A step of a chain of hundreds of short kernels costs the host more than the device; a recorded one costs a copy in, a
launch and a copy out. Each size of a ladder is recorded once; the sampled ids are the only thing the host waits for.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from bisect import bisect_left
from typing import Any

import torch

from light_tts.llm.decode_inputs import MAX_TOP_K, DecodeInputs
from light_tts.llm.padded_decode import PaddedDecode, triton_kernels
from light_tts.llm.paged_attention import PagedKVCache
from light_tts.llm.sampler import Sampler
from light_tts.llm.scheduler import Chunk
from light_tts.models.nets.speech_lm import SpeechLM

logger = logging.getLogger(__name__)


def batch_ladder(most_rows: int) -> list[int]:
    """Recorded batch sizes, ascending up to `most_rows`: padding adds fewer rows than there are, later half at most."""
    sizes = [1, 2, 4, 8, 16, 24, 32]
    while sizes[-1] < most_rows:
        sizes.append(sizes[-1] + max(16, (1 << (sizes[-1].bit_length() - 1)) // 4))
    return [size for size in sizes if size < most_rows] + [most_rows]


def why_not(device: torch.device, head_dim: int) -> str | None:
    """Why decoding steps cannot be recorded on this machine; None when they can."""
    if device.type != "cuda":
        return "the language model does not run on a GPU"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install 'light-tts[gpu]')"
    if head_dim < 16 or head_dim & (head_dim - 1):
        return f"heads of {head_dim} numbers are not a power of 2 of at least 16"
    return None


class DecodeGraphs:
    """Records and replays. Made and used on the stream of the language model, by one thread at a time.

    most_rows:  largest recorded batch; a bigger step is replayed in parts.
    most_tokens:  longest sequence.
    warm_up_iterations:  runs of a step before it is recorded, at least 1.
    """

    def __init__(
        self,
        lm: SpeechLM,
        cache: PagedKVCache,
        sampler: Sampler,
        *,
        most_rows: int,
        most_tokens: int,
        warm_up_iterations: int = 1,
    ) -> None:
        self._warm_up_iterations = warm_up_iterations
        self._sizes = batch_ladder(most_rows)
        self._inputs = DecodeInputs(
            most_rows=most_rows,
            most_pages=-(-most_tokens // cache.block_tokens),
            block_tokens=cache.block_tokens,
            win_size=sampler.win_size,
            dump_slot=cache.dump_slot,
            zero_page=cache.zero_page,
            device=lm.device,
        )
        self._decode = PaddedDecode(lm, cache, sampler, triton_kernels())
        self._tokens = torch.zeros(most_rows, dtype=torch.int64, device=lm.device)
        self._tokens_host = torch.zeros(most_rows, dtype=torch.int64, pin_memory=True)
        self._graphs = self._record(lm.device)

    def _record(self, device: torch.device) -> dict[int, torch.cuda.CUDAGraph]:
        started_s, before_bytes = time.perf_counter(), torch.cuda.memory_reserved(device)
        pool = torch.cuda.graph_pool_handle()
        graphs = {}
        # The largest first: the others find their memory in what it leaves behind.
        for size in reversed(self._sizes):
            graphs[size] = self._record_one(size, pool)
            logger.debug("recorded decoding steps of %d rows", size)
        taken_mb = (torch.cuda.memory_reserved(device) - before_bytes) / 2**20
        elapsed_s = time.perf_counter() - started_s
        logger.info(
            "recorded %d CUDA graphs of decoding, 1 to %d rows, in %.1f s; %.0f MB",
            len(graphs), self._sizes[-1], elapsed_s, taken_mb,
        )  # fmt: skip
        return graphs

    def _record_one(self, size: int, pool: Any) -> torch.cuda.CUDAGraph:
        self._inputs.fill([], size)
        views, tokens = self._inputs.views(size), self._tokens[:size]
        for _ in range(self._warm_up_iterations):
            tokens.copy_(self._decode.sample(views))  # compiles kernels and makes handles, which no recording may
        torch.cuda.current_stream().synchronize()
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream()
        # Another thread may be computing at the same time, on a stream of its own.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            tokens.copy_(self._decode.sample(views))
        return graph

    def can_run(self, chunks: list[Chunk]) -> bool:
        """True when every chunk is one row that is sampled, within what was recorded."""
        return all(
            chunk.num_rows == 1
            and chunk.samples
            and chunk.sequence.sampling.top_k <= MAX_TOP_K
            and len(chunk.sequence.blocks) <= self._inputs.most_pages
            for chunk in chunks
        )

    def run(self, chunks: list[Chunk]) -> list[int]:
        """The ids sampled after the chunks' rows."""
        tokens: list[int] = []
        for start in range(0, len(chunks), self._sizes[-1]):
            tokens += self._run_part(chunks[start : start + self._sizes[-1]])
        return tokens

    def _run_part(self, chunks: list[Chunk]) -> list[int]:
        count = len(chunks)
        size = self._sizes[bisect_left(self._sizes, count)]
        self._inputs.fill(chunks, size)
        self._graphs[size].replay()
        self._tokens_host[:count].copy_(self._tokens[:count], non_blocking=True)
        torch.cuda.current_stream().synchronize()
        drawn: list[int] = self._tokens_host[:count].tolist()
        return drawn
