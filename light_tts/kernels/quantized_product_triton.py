"""Products with one quantised matrix on a GPU, each on the kernel that suits the number of rows.

Plain version: `quantized_weights.py`; with what comes before and after, `small_linear.py`. Importing this needs Triton.
"""

from __future__ import annotations

import torch
from torch import Tensor

from light_tts.kernels.quantized_stream_triton import stream_product
from light_tts.kernels.quantized_tiles_triton import TiledProduct
from light_tts.kernels.quantized_weights import Around, QuantizedWeights

MOST_STREAMED_ROWS = 2
_ALONE = Around()


class QuantizedProduct:
    """Callable like `product_plain` with its matrix given; not two calls at a time."""

    def __init__(self, weights: QuantizedWeights) -> None:
        self._weights = weights
        self._tiled = TiledProduct(weights)

    def __call__(
        self, rows: Tensor, base: Tensor | None = None, in_place: bool = False, around: Around = _ALONE
    ) -> Tensor:
        """See `product_plain`.

        in_place:  the result takes the memory of `base` [B, outputs].
        around:    what else is computed in the kernel, as `norm_linear_plain` and `norm_gated_plain` do; the base of a
                   gated product must be None.
        """
        assert base is None or not around.is_gated, "nothing is added before the gate"
        if rows.stride(-1) != 1:
            rows = rows.contiguous()
        if in_place and base is not None and base.is_contiguous():
            out = base
        else:
            num_outputs = self._weights.num_outputs // (2 if around.is_gated else 1)
            out = torch.empty(len(rows), num_outputs, dtype=rows.dtype, device=rows.device)
        if len(rows) <= MOST_STREAMED_ROWS:
            stream_product(rows, self._weights, base, out, around)
        else:
            self._tiled(rows, base, out, around)
        return out
