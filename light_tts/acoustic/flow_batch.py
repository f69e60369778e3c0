"""One run of the flow over several sequences together: tokens to mu, then the Euler solver with guidance.

Knows nothing of streams or budgets: a row says what came before it and what is to be kept of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from light_tts.acoustic.flow_context import KeptContext
from light_tts.acoustic.flow_states import GUIDANCE_ROWS, FlowStates, KeptStates, LevelStates, Save
from light_tts.models.nets.context import SequenceContext
from light_tts.models.nets.euler_time import cosine_schedule
from light_tts.models.nets.flow_net import Estimator, FlowNet
from light_tts.models.nets.lookahead import BodyContexts
from light_tts.types import FRAMES_PER_TOKEN, MEL_BINS


@dataclass(frozen=True, eq=False)
class FlowRow:
    """New tokens of one sequence.

    tokens:       [num_tokens + lookahead] int64; without lookahead the sequence ends with the last token.
    num_tokens:   tokens to compute, at least 1.
    first_token:  index of the first of them, counted from the first prompt token.
    prompt_mel:   [F, 80] float32 mel of the prompt, from frame 0.
    speaker:      [80] float32 speaker vector.
    past:         states of the tokens before `first_token`, in order.
    saves:        (states, begin, end): new tokens `begin` to `end` are to be kept in `states`.
    """

    tokens: Tensor
    num_tokens: int
    first_token: int
    prompt_mel: Tensor
    speaker: Tensor
    guidance: float
    past: tuple[KeptStates, ...] = ()
    saves: tuple[tuple[KeptStates, int, int], ...] = ()


def run_rows(
    net: FlowNet, rows: Sequence[FlowRow], *, steps: int, is_chunked: bool, estimator: Estimator | None = None
) -> list[Tensor]:
    """Compute the rows together. Returns the mel of each row's new tokens, [2 * num_tokens, 80] float32.

    steps:       Euler steps.
    is_chunked:  chunk mask; otherwise every frame sees every frame and no row may have a past or saves.
    estimator:   in place of the net's own.
    """
    with torch.inference_mode():
        mu = _token_to_mu(net, rows, is_chunked)
        frames = int(mu.shape[1])
        noise = [_frames(net.noise, row, frames) for row in rows]
        cond = [_frames(row.prompt_mel, row, frames) for row in rows]
        speaker = torch.stack([row.speaker for row in rows])
        guidance = torch.tensor([row.guidance for row in rows], device=net.device)[:, None, None]
        context = _context(net, rows, steps, is_chunked)
        mel = solve(
            net,
            torch.stack(noise),
            mu=mu,
            speaker=speaker,
            cond=torch.stack(cond).to(net.device),
            guidance=guidance,
            steps=steps,
            context=context,
            estimator=estimator,
        )
        return [mel[index, : FRAMES_PER_TOKEN * row.num_tokens] for index, row in enumerate(rows)]


class SolverContext(SequenceContext, Protocol):
    """The context of the estimator, which changes from one evaluation (Euler step) to the next."""

    def begin(self, evaluation: int) -> None:
        """Bring in the past of an evaluation."""

    def finish(self) -> None:
        """Keep what is to be kept of it."""


def solve(
    net: FlowNet,
    x: Tensor,
    *,
    mu: Tensor,
    speaker: Tensor,
    cond: Tensor,
    guidance: Tensor,
    steps: int,
    context: SolverContext,
    estimator: Estimator | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Euler integration of the velocity from t = 0 to 1 with classifier-free guidance (spec: flow, section 6).

    x: [B, M, 80] noise; mu, cond: [B, M, 80]; speaker: [B, 80]; guidance: [B, 1, 1]; all float32.
    context:    of 2 B rows, conditional rows first.
    estimator:  in place of the net's own.
    on_step:    called with the step's number and state before each step.
    """
    estimator = net.estimator if estimator is None else estimator
    conditioned = estimator.static_inputs(mu, speaker, cond)
    static = torch.cat([conditioned, torch.zeros_like(conditioned)])
    table = net.time_table(steps)
    schedule = cosine_schedule(steps).tolist()
    for step in range(steps):
        if on_step is not None:
            on_step(step, x)
        context.begin(step)
        velocity = estimator(torch.cat([x, x]), static, table[step : step + 1], context)
        context.finish()
        with_condition, without = velocity.chunk(GUIDANCE_ROWS)
        velocity = with_condition + guidance * (with_condition - without)
        x = x + (schedule[step + 1] - schedule[step]) * velocity
    return x


def _token_to_mu(net: FlowNet, rows: Sequence[FlowRow], is_chunked: bool) -> Tensor:
    """mu of the new tokens, [B, 2T, 80] float32."""
    lengths = [row.num_tokens for row in rows]
    width = max(lengths) + net.lookahead_tokens
    tokens = pad_sequence([row.tokens for row in rows], batch_first=True)
    embedded = net.embed(F.pad(tokens, (0, width - tokens.shape[1])))
    valid = None
    if any(len(row.tokens) < width for row in rows):
        given = torch.tensor([len(row.tokens) for row in rows])
        valid = (torch.arange(width) < given[:, None])[..., None].to(device=net.device, dtype=torch.float32)
    shape = net.body.shape

    def context(ratio: int, layers: int, chunk: int, level: Callable[[FlowStates], LevelStates]) -> KeptContext:
        return KeptContext(
            [ratio * length for length in lengths],
            *_kept(rows, ratio, level),
            layers=layers,
            width=shape.width,
            guidance_rows=1,
            chunk=chunk if is_chunked else 0,
            dtype=net.dtype,
            device=net.device,
        )

    tokens_context = context(1, shape.token_layers, net.chunk_tokens, lambda states: states.tokens)
    frames_context = context(FRAMES_PER_TOKEN, shape.frame_layers, net.chunk_frames, lambda states: states.frames)
    for level in (tokens_context, frames_context):
        level.begin(0)
    mu = net.body(embedded, valid, BodyContexts(tokens_context, frames_context))
    for level in (tokens_context, frames_context):
        level.finish()
    return mu


def _context(net: FlowNet, rows: Sequence[FlowRow], steps: int, is_chunked: bool) -> KeptContext:
    """The context of the estimator."""
    return KeptContext(
        [FRAMES_PER_TOKEN * row.num_tokens for row in rows],
        *_kept(rows, FRAMES_PER_TOKEN, lambda states: states.estimator),
        layers=net.estimator.num_attention_layers,
        width=net.estimator.attention_width,
        guidance_rows=GUIDANCE_ROWS,
        chunk=net.chunk_frames if is_chunked else 0,
        dtype=net.dtype,
        device=net.device,
    )


def _kept(
    rows: Sequence[FlowRow], ratio: int, level: Callable[[FlowStates], LevelStates]
) -> tuple[list[list[LevelStates]], list[list[Save]]]:
    """Pasts and saves of all rows for one network with `ratio` steps per token."""
    pasts = [[level(cast(FlowStates, states)) for states in row.past] for row in rows]
    saves = [
        [Save(level(cast(FlowStates, states)), ratio * begin, ratio * end) for states, begin, end in row.saves]
        for row in rows
    ]
    return pasts, saves


def _frames(table: Tensor, row: FlowRow, frames: int) -> Tensor:
    """[frames, 80]: the row's part of a table over absolute frames, zeros where it has none."""
    first = FRAMES_PER_TOKEN * row.first_token
    part = table[first : first + FRAMES_PER_TOKEN * row.num_tokens]
    assert part.shape[1] == MEL_BINS
    return F.pad(part, (0, 0, 0, frames - part.shape[0]))
