"""An Euler step in one kernel. Plain version: `flow_step.py`. Importing this needs Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.launch_sizes import ceil_div

_BLOCK = 512


@triton.jit(do_not_specialize=["num_values", "values_per_sequence"])  # type: ignore[untyped-decorator]
def _euler_kernel(
    x: tl.tensor,
    velocity: tl.tensor,
    guidance: tl.tensor,
    inputs: tl.tensor,
    step: tl.tensor,
    num_values: tl.tensor,
    values_per_sequence: tl.tensor,
    CHANNELS: tl.constexpr,
    INPUT_CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_inside = places < num_values
    with_condition = tl.load(velocity + places, mask=is_inside, other=0.0)
    without = tl.load(velocity + num_values + places, mask=is_inside, other=0.0)
    weight = tl.load(guidance + places // values_per_sequence, mask=is_inside, other=0.0)
    state = tl.load(x + places, mask=is_inside, other=0.0)
    state += tl.load(step) * (with_condition + weight * (with_condition - without))
    tl.store(x + places, state, mask=is_inside)
    target = inputs + (places // CHANNELS).to(tl.int64) * INPUT_CHANNELS + places % CHANNELS
    rounded = state.to(inputs.dtype.element_ty)
    tl.store(target, rounded, mask=is_inside)
    tl.store(target + (num_values // CHANNELS).to(tl.int64) * INPUT_CHANNELS, rounded, mask=is_inside)


def euler_step(x: Tensor, velocity: Tensor, guidance: Tensor, step: Tensor, inputs: Tensor) -> None:
    """See `euler_step_plain`; everything contiguous."""
    _, frames, channels = x.shape
    _euler_kernel[(ceil_div(x.numel(), _BLOCK),)](
        x,
        velocity,
        guidance,
        inputs,
        step,
        x.numel(),
        frames * channels,
        CHANNELS=channels,
        INPUT_CHANNELS=inputs.shape[-1],
        BLOCK=_BLOCK,
    )
