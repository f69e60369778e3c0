"""Small functions that several Triton kernels share. Importing this needs Triton."""

from __future__ import annotations

from typing import Literal

import torch
import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def mish(x: tl.tensor) -> tl.tensor:
    """x * tanh(softplus(x)) of float32: with e = exp(x), tanh(log(1 + e)) = (e^2 + 2 e) / (e^2 + 2 e + 2)."""
    e = tl.exp(tl.minimum(x, 20.0))
    part = e * (e + 2.0)
    return x * (part / (part + 2.0))


@triton.jit  # type: ignore[untyped-decorator]
def activate(x: tl.tensor, NAME: tl.constexpr) -> tl.tensor:
    """The activation by name, of float32."""
    if NAME == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    if NAME == "gelu_tanh":
        # 0.5 x (1 + tanh(u)) = x sigmoid(2 u)
        x = x / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))
    return x


def precision_of(dtype: torch.dtype) -> Literal["ieee", "tf32"]:
    """Of products: float32 matrices are multiplied as such, not rounded to tensor-core precision."""
    return "ieee" if dtype == torch.float32 else "tf32"


def has_large_shared_memory(device: torch.device) -> bool:
    """True on data-centre GPUs, whose multiprocessors have more than the 100 KB of the others."""
    if device.type != "cuda":
        return True
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)) > 150_000
