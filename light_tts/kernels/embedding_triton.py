"""The beginning of a step in one kernel, one program a row. Plain version: `embedding.py`.

Importing this needs Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from light_tts.kernels.embedding import EmbeddingTables, RowInputs
from light_tts.kernels.launch_sizes import power_of_2


@triton.jit  # type: ignore[untyped-decorator]
def _embed_kernel(
    rows: tl.tensor,
    sources: tl.tensor,
    positions: tl.tensor,
    drawn: tl.tensor,
    text: tl.tensor,
    speech: tl.tensor,
    inverse_frequencies: tl.tensor,
    hidden: tl.tensor,
    rotation: tl.tensor,
    num_text: tl.tensor,
    speech_row0: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PAIRS: tl.constexpr,
) -> None:
    index = tl.program_id(0).to(tl.int64)
    source = tl.load(sources + index)
    code = tl.load(drawn + tl.maximum(source, 0))
    row = tl.where(source >= 0, speech_row0 + tl.maximum(code, 0), tl.load(rows + index))
    places = tl.arange(0, BLOCK)
    is_text = row < num_text
    is_inside = places < WIDTH
    from_text = tl.load(text + row * WIDTH + places, mask=is_inside & is_text, other=0.0)
    from_speech = tl.load(speech + (row - num_text) * WIDTH + places, mask=is_inside & (row >= num_text), other=0.0)
    embedded = tl.where(is_text, from_text, from_speech.to(text.dtype.element_ty))
    tl.store(hidden + index * WIDTH + places, embedded, mask=is_inside)

    pairs = tl.arange(0, PAIRS)
    angles = tl.load(positions + index).to(tl.float32) * tl.load(inverse_frequencies + pairs)
    turn = rotation + index * 2 * PAIRS + pairs * 2
    tl.store(turn, tl.cos(angles))
    tl.store(turn + 1, tl.sin(angles))


def embed(inputs: RowInputs, tables: EmbeddingTables) -> tuple[Tensor, Tensor]:
    """See `embed_plain`; half of head_dim must be a power of 2."""
    num_rows, width = len(inputs.rows), tables.text.shape[1]
    pairs = len(tables.inverse_frequencies)
    hidden = torch.empty(num_rows, width, dtype=tables.text.dtype, device=tables.text.device)
    rotation = torch.empty(num_rows, pairs, 2, dtype=torch.float32, device=tables.text.device)
    _embed_kernel[(num_rows,)](
        inputs.rows, inputs.sources, inputs.positions, inputs.drawn, tables.text, tables.speech,
        tables.inverse_frequencies, hidden, rotation, tables.text.shape[0], tables.speech_row0,
        WIDTH=width, BLOCK=power_of_2(width), PAIRS=pairs, num_warps=4,
    )  # fmt: skip
    return hidden, rotation
