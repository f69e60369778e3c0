"""Matrices in fewer bits, and the plain product with them. `quantized_product_triton.py` computes the same on a GPU.

| kind | code | scale | bits of a weight |
| --- | --- | --- | --- |
| int8 | whole number from -127 to 127 | one of each output | 8 |
| int4 | whole number from -8 to 7, two in a byte | one of each output and 128 inputs | 4.25 |
| fp8 | e4m3 (Micikevicius et al. 2022, arXiv:2209.05433) | one of each output | 8 |

A weight is its code times its scale. Codes are exact in float16 and in bfloat16, so nothing but they is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

WeightKind = Literal["int8", "int4", "fp8"]

GROUP_INPUTS = 128  # that share a scale in int4
_GROUP_BYTES = GROUP_INPUTS // 2
FP8_MOST = 448.0
LEAST_SCALE = 1e-30  # of a row of zeros; a smaller number would be computed with in float64 in a kernel
# The largest number of a group may be cut when that makes the others better: fractions that are tried.
_INT4_FRACTIONS = tuple(1.0 - 0.025 * step for step in range(16))


@dataclass(frozen=True)
class QuantizedWeights:
    """A matrix [outputs, inputs].

    codes:   int8: [outputs, inputs] int8; fp8: the same in float8_e4m3fn; int4: [outputs, groups * 64] uint8, where
             byte j of a group holds input j in its low half and input j + 64 in its high one, each with 8 added.
    scales:  float32; [outputs], of int4 [groups, outputs].
    """

    kind: WeightKind
    codes: Tensor
    scales: Tensor
    num_inputs: int

    @property
    def num_outputs(self) -> int:
        """Length of a product."""
        return self.codes.shape[0]

    @property
    def num_bytes(self) -> int:
        """Of codes and scales together."""
        return self.codes.nbytes + self.scales.nbytes

    def to(self, device: torch.device | str) -> QuantizedWeights:
        """The same on a device."""
        return QuantizedWeights(self.kind, self.codes.to(device), self.scales.to(device), self.num_inputs)


class Around(NamedTuple):
    """What a kernel computes before and after its product, as in `small_linear.py`.

    norm, eps:  of the rows before the product; None: they are taken as they are.
    is_gated:   the halves of the product are gate and up.
    overlaps:   the kernel is launched before the one before it has ended; see `triton_math.begin`.
    """

    norm: Tensor | None = None
    eps: float = 0.0
    is_gated: bool = False
    overlaps: bool = False


def quantize(weights: Tensor, kind: WeightKind) -> QuantizedWeights:
    """Round a matrix [outputs, inputs] of any floating dtype to the nearest codes; on the device it is on."""
    outputs, inputs = weights.shape
    exact = weights.float()
    if kind == "int4":
        groups = F.pad(exact, (0, -inputs % GROUP_INPUTS)).view(outputs, -1, GROUP_INPUTS)
        codes, scales = _nearest_int4(groups)
        return QuantizedWeights(kind, _packed(codes), scales.t().contiguous(), inputs)
    most = 127.0 if kind == "int8" else FP8_MOST
    scales = (exact.abs().amax(dim=1) / most).clamp_(min=LEAST_SCALE)
    scaled = (exact / scales[:, None]).clamp_(-most, most)
    codes = scaled.round_().to(torch.int8) if kind == "int8" else scaled.to(torch.float8_e4m3fn)
    return QuantizedWeights(kind, codes, scales, inputs)


def dequantize(weights: QuantizedWeights) -> Tensor:
    """The matrix [outputs, inputs] that the codes stand for, in float32."""
    if weights.kind != "int4":
        return weights.codes.float() * weights.scales[:, None]
    groups = _unpacked(weights.codes).float() * weights.scales.t()[..., None]
    return groups.flatten(1)[:, : weights.num_inputs].contiguous()


def product_plain(rows: Tensor, weights: QuantizedWeights, base: Tensor | None = None) -> Tensor:
    """`rows @ matrix.T + base`, summed in float32 and rounded once.

    rows:  [B, inputs] in any floating dtype.
    base:  [outputs] or [B, outputs] in the dtype of `rows`; None: zeros.

    Returns [B, outputs] in the dtype of `rows`.
    """
    if weights.kind == "int4":
        result = rows.float() @ dequantize(weights).t()
    else:
        result = (rows.float() @ weights.codes.float().t()) * weights.scales
    return (result if base is None else result + base.float()).to(rows.dtype)


def _nearest_int4(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [outputs, groups, 128] and scales [outputs, groups] of the least squared error among those tried.

    The largest number of a group gets the code -8, which has no positive twin: the scale takes its sign.
    """
    largest = groups.gather(-1, groups.abs().argmax(dim=-1, keepdim=True))
    least_error = torch.full_like(largest, torch.inf)
    codes, scales = torch.zeros_like(groups), torch.zeros_like(largest)
    for fraction in _INT4_FRACTIONS:
        scale = largest * (fraction / -8.0)
        code = (groups / torch.where(scale == 0, 1.0, scale)).round_().clamp_(-8.0, 7.0)
        error = (code * scale - groups).square_().sum(dim=-1, keepdim=True)
        is_better = error < least_error
        least_error = torch.where(is_better, error, least_error)
        codes, scales = torch.where(is_better, code, codes), torch.where(is_better, scale, scales)
    return codes, scales.squeeze(-1)


def _packed(codes: Tensor) -> Tensor:
    """[outputs, groups, 128] from -8 to 7 -> [outputs, groups * 64] uint8."""
    low, high = (codes + 8.0).to(torch.uint8).split(_GROUP_BYTES, dim=-1)
    pairs: Tensor = low | (high << 4)
    return pairs.flatten(1)


def _unpacked(packed: Tensor) -> Tensor:
    """[outputs, groups * 64] uint8 -> [outputs, groups, 128] int8."""
    pairs = packed.view(len(packed), -1, _GROUP_BYTES)
    return torch.cat([pairs & 15, pairs >> 4], dim=-1).to(torch.int8) - 8
