"""Small functions that several Triton kernels share. Importing this needs Triton."""

from __future__ import annotations

from typing import Literal

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_MOST_OVERLAPPED_ROWS = 1024  # larger kernels fill the device by themselves


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
    if NAME == "silu":
        x = x / (1.0 + tl.exp(-x))
    if NAME == "gelu_tanh":
        # 0.5 x (1 + tanh(u)) = x sigmoid(2 u)
        x = x / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))
    return x


@triton.jit  # type: ignore[untyped-decorator]
def sin_pi_squared(x: tl.tensor) -> tl.tensor:
    """sin(pi x)^2 of float32, |x| < 2^22, to 10^-6: it repeats after 1, so that a polynomial of what is left will do.

    The library's sine reduces arguments of any size, and takes for that more registers than a matrix product does.
    """
    part = x - ((x + 12582912.0) - 12582912.0)  # 1.5 * 2^23: beyond it float32 has whole numbers only
    square = part * part
    # Minimax in part^2 up to 1/4 of sin(pi part)^2 / part^2.
    value = 10.581298828125 * square - 29.426273345947266
    value = value * square + 42.64342498779297
    value = value * square - 32.46514129638672
    value = value * square + 9.869524955749512
    return value * square


@triton.jit  # type: ignore[untyped-decorator]
def sin_turns(x: tl.tensor) -> tl.tensor:
    """sin(2 pi x) of float32, |x| < 2^22, to 3e-7. See `sin_pi_squared`."""
    part = x - ((x + 12582912.0) - 12582912.0)
    quarter = 0.25 - tl.abs(tl.abs(part) - 0.25)  # the sine of both halves of a half turn is the same
    square = quarter * quarter
    # Minimax in quarter^2 up to 1/16 of sin(2 pi quarter) / quarter.
    value = 39.536705017089844 * square - 76.5497817993164
    value = value * square + 81.60100555419922
    value = value * square - 41.34165573120117
    value = value * square + 6.283185005187988
    return tl.where(part < 0.0, -quarter, quarter) * value


@triton.jit  # type: ignore[untyped-decorator]
def begin(OVERLAPS: tl.constexpr) -> None:
    """Let the next kernel start, then wait for the one before (programmatic dependent launch, compute capability 9.0).

    Before it a kernel may read only what no kernel has written since the last one that was launched in full order, such
    as weights: anything else may not be there yet. A kernel that is launched so must call it, or `wait_for_former`,
    before it writes, because the ones after it rely on everything before them being done.
    """
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit  # type: ignore[untyped-decorator]
def begin_with_rows(
    matrix: tl.tensor, rows: tl.tensor, WIDTH: tl.constexpr, LINES: tl.constexpr, OVERLAPS: tl.constexpr
) -> None:
    """`begin`; meanwhile rows [N] of a matrix of weights come into the L2 cache.

    WIDTH, LINES:  values of 16 bits in a row; a power of two, not smaller than how many lines of 128 bytes it has.
    """
    if OVERLAPS:
        gdc_launch_dependents()
        places = tl.minimum(tl.arange(0, LINES) * 64, WIDTH - 1)
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
            "=r,l",
            [(matrix + rows[:, None] * WIDTH + places[None, :]).to(tl.int64)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
        gdc_wait()


@triton.jit  # type: ignore[untyped-decorator]
def let_next_begin(OVERLAPS: tl.constexpr) -> None:
    """Let the next kernel start."""
    if OVERLAPS:
        gdc_launch_dependents()


@triton.jit  # type: ignore[untyped-decorator]
def wait_for_former(OVERLAPS: tl.constexpr) -> None:
    """Wait for the kernel before; see `begin`, which is both."""
    if OVERLAPS:
        gdc_wait()


@triton.jit  # type: ignore[untyped-decorator]
def take_over(OVERLAPS: tl.constexpr) -> None:
    """Wait for the kernel before, only then let the next one start: `begin` for kernels that fill multiprocessors."""
    if OVERLAPS:
        gdc_wait()
        gdc_launch_dependents()


def launch_options(num_rows: int, overlaps: bool) -> dict[str, bool]:
    """OVERLAPS, and the launch that goes with it. Where kernels are long, nothing is gained."""
    if overlaps and num_rows <= _MOST_OVERLAPPED_ROWS:
        return {"OVERLAPS": True, "launch_pdl": True}
    return {"OVERLAPS": False}


def precision_of(dtype: torch.dtype) -> Literal["ieee", "tf32"]:
    """Of products: float32 matrices are multiplied as such, not rounded to tensor-core precision."""
    return "ieee" if dtype == torch.float32 else "tf32"


def has_large_shared_memory(device: torch.device) -> bool:
    """True on data-centre GPUs, whose multiprocessors have more than the 100 KB of the others."""
    if device.type != "cuda":
        return True
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)) > 150_000
