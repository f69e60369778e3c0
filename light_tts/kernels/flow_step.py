"""One Euler step of the flow with guidance, and the input of the next evaluation. The plain version."""

from __future__ import annotations

from torch import Tensor


def euler_step_plain(x: Tensor, velocity: Tensor, guidance: Tensor, step: Tensor, inputs: Tensor) -> None:
    """x += step * (v0 + guidance * (v0 - v1)); then x becomes the first channels of `inputs`.

    x:         [R, M, C] float32, changed in place.
    velocity:  [2 R, M, C] float32, conditional rows first.
    guidance:  [R] float32.
    step:      [1] float32, how far the time goes on.
    inputs:    [2 R, M, C'], C' >= C: its first C channels are written, for both rows of a sequence alike.
    """
    with_condition, without = velocity.chunk(2)
    x += step * (with_condition + guidance[:, None, None] * (with_condition - without))
    inputs[..., : x.shape[-1]] = x.repeat(2, 1, 1)
