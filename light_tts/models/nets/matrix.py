"""A weight matrix of the language model's body, behind an interface that leaves open how its numbers are kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Matrix(nn.Module):
    """Multiplies rows. Subclasses decide how the numbers are stored.

    in_width, out_width:  numbers of a row before and after.
    """

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.in_width, self.out_width = in_width, out_width

    def multiply(self, rows: Tensor) -> Tensor:
        """[N, in_width] -> `rows @ W`, plus the bias where there is one, [N, out_width] in the dtype of `rows`."""
        raise NotImplementedError

    def accumulate(self, total: Tensor, rows: Tensor) -> Tensor:
        """`total + rows @ W` [N, out_width], without a bias; the memory of `total` may be used for it."""
        raise NotImplementedError


# Makes one matrix of the body from its name ("layers.0.qkv"), its weight [out, in] as loaded, and its bias [out].
MakeMatrix = Callable[[str, Tensor, Tensor | None], Matrix]


class PlainMatrix(Matrix):
    """Numbers in the body's own dtype.

    On a CPU they are kept in the order [in, out]: a one-row product over it streams the weights almost twice as fast.
    On a GPU an output's numbers lie side by side, so that a program which computes a few outputs reads whole lines.

    weight:  [in, out], contiguous on a CPU, the transpose of a contiguous tensor elsewhere.
    bias:    [out], or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, dtype: torch.dtype, device: torch.device | str) -> None:
        super().__init__(weight.shape[1], weight.shape[0])
        placed = weight.to(device=device, dtype=dtype)
        by_input = placed.t().contiguous() if placed.device.type == "cpu" else placed.contiguous().t()
        self.weight = nn.Parameter(by_input, requires_grad=False)
        bias = None if bias is None else bias.to(device=device, dtype=dtype)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def multiply(self, rows: Tensor) -> Tensor:
        """See `Matrix.multiply`."""
        return rows @ self.weight if self.bias is None else torch.addmm(self.bias, rows, self.weight)

    def accumulate(self, total: Tensor, rows: Tensor) -> Tensor:
        """See `Matrix.accumulate`."""
        return total.addmm_(rows, self.weight)
