"""A whole flow call of one size: token-to-mel body, all Euler steps, guidance. On a GPU recorded as one CUDA graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from light_tts.acoustic.flow_batch import FlowRow, solve
from light_tts.acoustic.flow_inputs import FlowInputs, InputMemory
from light_tts.acoustic.flow_paged import PagedContext
from light_tts.acoustic.flow_pages import PagedLevel, PagePool
from light_tts.acoustic.flow_sizes import ANY_PAST, CallSize
from light_tts.acoustic.recording import record_graph
from light_tts.kernels.flow_attention import FlowPages
from light_tts.kernels.flow_kernels import FlowKernels
from light_tts.models.nets.euler_time import cosine_schedule
from light_tts.models.nets.flow_net import MAX_FRAMES, FlowNet
from light_tts.models.nets.fused import FusedBody, FusedEstimator
from light_tts.models.nets.lookahead import BodyContexts
from light_tts.types import FRAMES_PER_TOKEN

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
    ) -> None:
        self.size = size
        self._net, self._pool, self._kernels = net, pool, kernels
        self._fused, self._fused_body = fused, fused_body
        self._inputs = FlowInputs(net, size, memory)
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def is_recorded(self) -> bool:
        """True when `run` replays."""
        return self._graph is not None

    def run(self, rows: Sequence[FlowRow], *, is_chunked: bool) -> Tensor:
        """Mel of the rows, [R, M, 80] float32; beyond a row's own frames it means nothing."""
        self._inputs.fill(rows, is_chunked=is_chunked)
        if self._graph is None:
            return self._compute(self.size.steps)
        self._graph.replay()
        return self._inputs.mel.clone()

    def record(self, memory: Any, stream: torch.cuda.Stream) -> None:
        """Record the call on a stream of its own; the device may be computing for other threads meanwhile.

        memory:  the pool that all recorded calls share; they never run at the same time.
        """
        self._inputs.fill([], is_chunked=True)  # recording computes, too, and must keep nothing
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Compiles and loads kernels and makes handles, which no recording may.
            self._compute(min(TRIED_STEPS, self.size.steps))
            stream.synchronize()
        self._graph = record_graph(lambda: self._inputs.mel.copy_(self._compute(self.size.steps)), memory, stream)

    def _compute(self, steps: int) -> Tensor:
        net, pool, inputs = self._net, self._pool, self._inputs
        with torch.inference_mode():
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
            noise = net.noise[places.clamp_max(MAX_FRAMES - 1)]
            context = self._context(pool.estimator, FRAMES_PER_TOKEN)
            if self._fused is not None:
                return self._solve_fused(self._fused, noise, mu, context, steps)
            return solve(
                net,
                noise,
                mu=mu,
                speaker=inputs.speaker,
                cond=inputs.cond,
                guidance=inputs.guidance[:, None, None],
                steps=steps,
                context=context,
            )

    def _solve_fused(self, fused: FusedEstimator, x: Tensor, mu: Tensor, context: PagedContext, steps: int) -> Tensor:
        """What `flow_batch.solve` computes."""
        net, inputs = self._net, self._inputs
        conditioned = net.estimator.static_inputs(mu, inputs.speaker, inputs.cond)
        static = torch.cat([conditioned, torch.zeros_like(conditioned)])
        given = torch.cat([x.repeat(2, 1, 1), static], dim=-1).to(net.dtype)
        guidance = inputs.guidance.contiguous()
        table, schedule = net.time_table(steps), cosine_schedule(steps).tolist()
        prepared = fused.prepare(context)
        for step in range(steps):
            context.begin(step)
            velocity = fused(given, table[step], context, prepared)
            context.finish()
            self._kernels.euler_step(x, velocity, guidance, schedule[step + 1] - schedule[step], given)
        return x

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
