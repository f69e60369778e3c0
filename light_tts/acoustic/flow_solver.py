"""The Euler solver of a flow call in two parts, each of which can be recorded: its beginning, and one step.

Computes what `flow_batch.solve` computes, in place.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from light_tts.acoustic.flow_inputs import FlowInputs
from light_tts.acoustic.flow_paged import PagedContext
from light_tts.kernels.flow_kernels import FlowKernels
from light_tts.kernels.flow_step import euler_step_plain
from light_tts.models.nets.flow_net import FlowNet
from light_tts.models.nets.fused import FusedEstimator


class Solver(Protocol):
    """The state is in the mel of the inputs: noise first, the mel at the end."""

    def begin(self, mu: Tensor, context: PagedContext) -> None:
        """Make ready for the steps. mu [R, M, 80] float32; the noise is in place."""

    def step(self, time: Tensor, size: Tensor) -> None:
        """One evaluation with guidance and its step. time [..] float32, size [1] float32: see `Schedule`."""


class FusedSolver:
    """With the estimator as few kernels."""

    def __init__(self, net: FlowNet, inputs: FlowInputs, kernels: FlowKernels, fused: FusedEstimator) -> None:
        self._net, self._inputs, self._kernels, self._fused = net, inputs, kernels, fused

    def begin(self, mu: Tensor, context: PagedContext) -> None:
        """See Solver."""
        inputs, x = self._inputs, self._inputs.mel
        conditioned = self._net.estimator.static_inputs(mu, inputs.speaker, inputs.cond)
        static = torch.cat([conditioned, torch.zeros_like(conditioned)])
        inputs.stacked.copy_(torch.cat([x.repeat(2, 1, 1), static], dim=-1))
        self._guidance = inputs.guidance.contiguous()
        self._prepared = self._fused.prepare(context)
        self._context = context

    def step(self, time: Tensor, size: Tensor) -> None:
        """See Solver."""
        velocity = self._fused(self._inputs.stacked, time, self._context, self._prepared)
        self._kernels.euler_step(self._inputs.mel, velocity, self._guidance, size, self._inputs.stacked)


class PlainSolver:
    """With the estimator as it is."""

    def __init__(self, net: FlowNet, inputs: FlowInputs) -> None:
        self._net, self._inputs = net, inputs

    def begin(self, mu: Tensor, context: PagedContext) -> None:
        """See Solver."""
        inputs, x = self._inputs, self._inputs.mel
        conditioned = self._net.estimator.static_inputs(mu, inputs.speaker, inputs.cond)
        self._static = torch.cat([conditioned, torch.zeros_like(conditioned)])
        self._state = x.repeat(2, 1, 1)
        self._guidance = inputs.guidance.contiguous()
        self._context = context

    def step(self, time: Tensor, size: Tensor) -> None:
        """See Solver."""
        velocity = self._net.estimator(self._state, self._static, time[None], self._context)
        euler_step_plain(self._inputs.mel, velocity, self._guidance, size, self._state)
