"""A whole flow call of one size: token-to-mel body, all Euler steps, guidance. On a GPU recorded as CUDA graphs.

One graph takes the call to its first step, and one each holds a step: any number of them can be replayed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from light_tts.acoustic.flow_batch import FlowRow
from light_tts.acoustic.flow_inputs import FlowInputs, InputMemory
from light_tts.acoustic.flow_paged import PagedContext
from light_tts.acoustic.flow_pages import PagedLevel, PagePool
from light_tts.acoustic.flow_schedule import Schedule
from light_tts.acoustic.flow_sizes import ANY_PAST, CallSize
from light_tts.acoustic.flow_solver import FusedSolver, PlainSolver, Solver
from light_tts.kernels.flow_attention import FlowPages
from light_tts.kernels.flow_kernels import FlowKernels
from light_tts.kernels.recording import record_graph
from light_tts.models.nets.flow_net import MAX_FRAMES, FlowNet
from light_tts.models.nets.fused import FusedBody, FusedEstimator
from light_tts.models.nets.lookahead import BodyContexts
from light_tts.types import FRAMES_PER_TOKEN, MEL_BINS

_REPLAYED_FRAMES = 3200  # rows x frames of calls that are replayed once when they have been recorded
# Euler steps that are computed before a call is recorded. All steps are the same kernels, but Triton compiles one again
# for tensors that do not begin at multiples of 16 bytes, as those of every step but the first may.
TRIED_STEPS = 2


class FlowCall:
    """Computes rows of up to one size, and keeps what they want kept in the pages of the pool.

    Every operation's shape follows from the size, and nothing is read back by the host.

    fused:       the estimator as few kernels; None: the network as it is.
    fused_body:  the same of the token-to-mel body, for sizes with ANY_PAST.
    memory:      of its inputs and its result, shared with other calls; None: its own. A call that begins writes to it,
                 so calls that share it run one after the other, on one stream.
    schedule:    of its steps, shared in the same way; it has a slot for each evaluation that a page has room for.
    """

    def __init__(
        self,
        net: FlowNet,
        pool: PagePool,
        size: CallSize,
        kernels: FlowKernels,
        fused: FusedEstimator | None = None,
        fused_body: FusedBody | None = None,
        memory: InputMemory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        self.size = size
        self._net, self._pool, self._kernels = net, pool, kernels
        self._fused_body = fused_body
        self._schedule = Schedule(net, pool.steps) if schedule is None else schedule
        self._inputs = inputs = FlowInputs(net, size, memory)
        self._solver: Solver = PlainSolver(net, inputs) if fused is None else FusedSolver(net, inputs, kernels, fused)
        self._estimator: PagedContext | None = None
        self._graphs: list[torch.cuda.CUDAGraph] = []  # the beginning, and a step for each slot

    @property
    def is_recorded(self) -> bool:
        """True when `run` replays."""
        return bool(self._graphs)

    def run(self, rows: Sequence[FlowRow], *, steps: int, is_chunked: bool) -> Tensor:
        """Mel of the rows, [R, M, 80] float32; beyond a row's own frames it means nothing.

        steps:  Euler steps. Rows of more than a page has room for have no past and keep nothing.
        """
        with torch.inference_mode():
            self._inputs.fill(rows, is_chunked=is_chunked)
            self.replay(steps)
            return self._inputs.mel.clone()

    def measure_s(self) -> float:
        """Seconds of the recorded call with full rows that keep nothing. When nobody else computes."""
        stream, num_tokens = torch.cuda.current_stream(), self._inputs.num_frames // FRAMES_PER_TOKEN
        row = FlowRow(
            tokens=torch.zeros(num_tokens + self._net.lookahead_tokens, dtype=torch.int64),
            num_tokens=num_tokens,
            first_token=0,
            prompt_mel=torch.zeros(0, MEL_BINS),
            speaker=torch.zeros(MEL_BINS, device=self._net.device),
            guidance=0.0,
        )
        for _ in range(2):  # the first time brings the graphs to the device
            stream.synchronize()
            start_s = time.perf_counter()
            self.run([row] * self.size.rows, steps=self._pool.steps, is_chunked=True)
            stream.synchronize()
        return time.perf_counter() - start_s

    def replay(self, steps: int) -> None:
        """Compute what the inputs hold; the result is in their mel."""
        self._schedule.load(steps)
        if self._graphs:
            self._graphs[0].replay()
        else:
            self._begin()
        for step in range(steps):
            slot = self._schedule.slot_of(step, steps)
            if self._graphs:
                self._graphs[1 + slot].replay()
            else:
                self._step(slot)

    @torch.inference_mode()
    def record(self, memory: Any, stream: torch.cuda.Stream) -> None:
        """Record the call on a stream of its own; the device may be computing for other threads meanwhile.

        memory:  the pool that all recorded calls share; they never run at the same time.
        """
        self._schedule.load(self._pool.steps)
        self._inputs.fill([], is_chunked=True)  # recording computes, too, and must keep nothing
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._try()
            stream.synchronize()
        beginning = record_graph(self._begin, memory, stream)
        steps = [record_graph(partial(self._step, slot), memory, stream) for slot in range(self._pool.steps)]
        self._graphs = [beginning, *steps]
        if self.size.rows * self._inputs.num_frames <= _REPLAYED_FRAMES:
            self.replay(self._pool.steps)  # the first time brings graphs to the device, which a listener would wait for

    @torch.inference_mode()
    def compute_briefly(self) -> None:
        """Launch each kernel of the call; nothing is kept, and nothing that counts is computed."""
        self._schedule.load(self._pool.steps)
        self._inputs.fill([], is_chunked=True)
        self._try()

    def _try(self) -> None:
        """Compile and load kernels and make handles, which no recording may."""
        self._begin()
        for slot in range(min(TRIED_STEPS, self._pool.steps)):
            self._step(slot)

    def _begin(self) -> None:
        """The body, and what all steps share."""
        net, pool, inputs = self._net, self._pool, self._inputs
        tokens = self._context(pool.tokens, 1)
        frames = self._context(pool.frames, FRAMES_PER_TOKEN)
        for context in (tokens, frames):
            context.begin(0)
        codes = inputs.tokens
        valid = torch.arange(codes.shape[1], device=net.device) < inputs.given[:, None]
        embedded, valid = net.embed(codes), valid[..., None].float()
        if self.size.past_pages == ANY_PAST:
            assert self._fused_body is not None
            mu = self._fused_body(embedded, valid, tokens, frames)
        else:
            mu = net.body(embedded, valid, BodyContexts(tokens, frames))
        for context in (tokens, frames):
            context.finish()
        places = (FRAMES_PER_TOKEN * inputs.first_token)[:, None].long()
        places = places + torch.arange(inputs.num_frames, device=net.device)
        inputs.mel.copy_(net.noise[places.clamp_max(MAX_FRAMES - 1)])
        self._estimator = self._context(pool.estimator, FRAMES_PER_TOKEN)
        self._solver.begin(mu, self._estimator)

    def _step(self, slot: int) -> None:
        assert self._estimator is not None
        self._estimator.begin(slot)
        self._solver.step(self._schedule.times[slot], self._schedule.size(slot))
        self._estimator.finish()

    def _context(self, level: PagedLevel, ratio: int) -> PagedContext:
        """The context of a network with `ratio` steps per token."""
        inputs = self._inputs
        num_past, lengths, chunks = (
            (factor * column).contiguous()
            for factor, column in ((1, inputs.num_past), (ratio, inputs.num_tokens), (ratio, inputs.chunk))
        )
        pages = FlowPages(inputs.past.contiguous(), num_past, lengths, chunks, inputs.saves.contiguous())
        return PagedContext(
            level,
            pages,
            num_new=ratio * inputs.num_frames // FRAMES_PER_TOKEN,
            first_steps=ratio * inputs.first_token.long(),
            kernels=self._kernels,
            past_pages=self.size.past_pages,
        )
