"""The speech-token language model: joint embedding table, Qwen2 body, speech head (spec: llm, sections 1 to 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from light_tts.errors import CheckpointError
from light_tts.models.nets.matrix import MakeMatrix
from light_tts.models.nets.qwen2 import AttentionContext, Qwen2Body, Qwen2Config
from light_tts.models.speech_ids import SpeechIds

_BODY = "llm.model.model."
_TEXT_TABLE = "llm.model.model.embed_tokens.weight"
_CONTROL_TABLE = "llm_embedding.weight"
_SPEECH_TABLE = "speech_embedding.weight"
_HEAD, _HEAD_BIAS = "llm_decoder.weight", "llm_decoder.bias"
# The text head is tied and never used here; epoch and step are left behind by training.
_UNUSED = frozenset({"llm.model.lm_head.weight", "epoch", "step"})


class SpeechLM(nn.Module):
    """Rows of the joint table in, logits over speech codes and control ids out.

    One id space for everything that enters: text ids first, then the control rows some checkpoints keep apart, then
    speech ids (`SpeechIds` gives the offsets). The speech table and the head stay in float32 whatever the body's
    dtype: together they are a percent of the weights, and the logits must be float32.
    """

    def __init__(
        self,
        config: Qwen2Config,
        ids: SpeechIds,
        body: Qwen2Body,
        *,
        text: Tensor,
        speech: Tensor,
        head: Tensor,
        bias: Tensor | None,
    ) -> None:
        super().__init__()
        self.config = config
        self.ids = ids
        self.body = body
        self.text_table = nn.Parameter(text, requires_grad=False)
        self.speech_table = nn.Parameter(speech, requires_grad=False)
        self.head = nn.Parameter(head, requires_grad=False)
        self.head_bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the body and of its keys and values."""
        return self.text_table.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.text_table.device

    @property
    def num_text_rows(self) -> int:
        """Rows of the joint table that are text ids."""
        return self.text_table.shape[0]

    def embed(self, rows: Tensor) -> Tensor:
        """Joint-table rows [N] int64 -> [N, C] in the body's dtype."""
        last_text = self.num_text_rows - 1
        text = F.embedding(rows.clamp(max=last_text), self.text_table)
        speech = F.embedding((rows - self.num_text_rows).clamp_(min=0), self.speech_table)
        return torch.where((rows > last_text)[:, None], speech.to(self.dtype), text)

    def hidden(
        self, rows: Tensor, positions: Tensor, context: AttentionContext, selected: Tensor | None = None
    ) -> Tensor:
        """Packed joint-table rows [N] -> final hidden states [S, C] float32 of the `selected` rows [S] (None: all)."""
        states: Tensor = self.body(self.embed(rows), positions, context, selected)
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """Final hidden states [S, C] float32 -> [S, head_size] float32."""
        return F.linear(hidden, self.head, self.head_bias)


def build_speech_lm(
    backbone: Mapping[str, Any],
    state: Mapping[str, Tensor],
    ids: SpeechIds,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    make_matrix: MakeMatrix | None = None,
) -> SpeechLM:
    """Build the network from a checkpoint.

    backbone:     the body's `config.json` (Hugging Face names).
    state:        tensors of `llm.pt`, any floating dtype; not changed. Where its head and speech embedding share
                  storage they still do on a GPU.
    ids:          offsets of the joint table and size of the head.
    make_matrix:  see `Qwen2Body.load`.

    Raises CheckpointError naming the first missing, unexpected or wrongly shaped keys.
    """
    config = Qwen2Config.from_mapping(backbone)
    shapes = _expected_shapes(config, ids, has_bias=_HEAD_BIAS in state)
    _check(state, shapes)
    body = Qwen2Body(config)
    own = {key.removeprefix(_BODY): value for key, value in state.items() if key.startswith(_BODY)}
    body.load(own, dtype=dtype, device=device, make_matrix=make_matrix)

    def place(tensor: Tensor, kind: torch.dtype = torch.float32) -> Tensor:
        return tensor.to(device=device, dtype=kind)

    speech = state[_SPEECH_TABLE]
    table = place(torch.cat([state[_CONTROL_TABLE], speech]) if _CONTROL_TABLE in shapes else speech)
    is_shared = state[_HEAD].data_ptr() == speech.data_ptr() and state[_HEAD].shape == speech.shape
    head = table[table.shape[0] - speech.shape[0] :] if is_shared else place(state[_HEAD])
    if head.device.type == "cpu":
        # The same numbers by columns: a product of one row streams them twice as fast, which is worth a copy.
        head = head.t().contiguous().t()
    bias = place(state[_HEAD_BIAS]) if _HEAD_BIAS in state else None
    text = place(state[_TEXT_TABLE], dtype)
    return SpeechLM(config, ids, body, text=text, speech=table, head=head, bias=bias).eval()


def _expected_shapes(config: Qwen2Config, ids: SpeechIds, *, has_bias: bool) -> dict[str, tuple[int, ...]]:
    hidden = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {_BODY + key: shape for key, shape in config.checkpoint_shapes().items()}
    shapes[_TEXT_TABLE] = (config.vocab_size, hidden)
    shapes[_SPEECH_TABLE] = shapes[_HEAD] = (ids.head_size, hidden)
    num_control = ids.speech_row0 - config.vocab_size
    if num_control < 0:
        raise CheckpointError(
            f"The speech rows begin at {ids.speech_row0}, inside the {config.vocab_size} text rows that the language "
            "model's config.json declares; config.json and llm.pt do not belong together."
        )
    if num_control:
        shapes[_CONTROL_TABLE] = (num_control, hidden)
    if has_bias:
        shapes[_HEAD_BIAS] = (ids.head_size,)
    return shapes


def _check(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    problems = {
        "missing keys": [key for key in shapes if key not in state],
        "unexpected keys": [key for key in state if key not in shapes and key not in _UNUSED],
        "wrong shapes": [
            f"{key} is {list(state[key].shape)}, expected {list(shape)}"
            for key, shape in shapes.items()
            if key in state and tuple(state[key].shape) != shape
        ],
    }
    found = [
        f"{label}: {', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}"
        for label, keys in problems.items()
        if keys
    ]
    if found:
        raise CheckpointError(f"llm.pt does not fit this model ({'; '.join(found)}).")
