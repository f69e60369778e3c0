"""The speech-token language model as a model of vLLM: its own body of Qwen2, with our speech table and head.

Imported only where vLLM is the backend. Rows of text and control never reach the tables here: whoever submits a prompt
looks them up and hands over embeddings. What vLLM feeds back itself are speech codes, rows of the speech table.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vllm import ModelRegistry
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.model_executor.models.qwen2 import Qwen2Model

from light_tts.models.nets.matrix import PlainMatrix
from light_tts.models.nets.qwen2 import Qwen2Config, Qwen2Layer, pairs_to_halves
from light_tts.models.nets.speech_lm import SpeechLM

LOAD_FORMAT = "light_tts"
_ARCHITECTURE = "LightTTSSpeechLM"


class VLLMSpeechLM(nn.Module):
    """The network, as vLLM builds and calls it.

    Its ids are the head's, and one more that no head has: `vllm_sampling` draws it where logits are not finite.
    """

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.model = Qwen2Model(vllm_config=vllm_config, prefix=f"{prefix}.model" if prefix else "model")
        # As in `SpeechLM`: logits are float32 whatever the body's dtype.
        head = torch.empty(config.vocab_size - 1, config.hidden_size, dtype=torch.float32)
        self.head = nn.Parameter(head, requires_grad=False)
        self.head_bias = nn.Parameter(torch.zeros(len(head), dtype=torch.float32), requires_grad=False)

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """Speech codes [N] -> [N, C]."""
        rows: Tensor = self.model.embed_input_ids(input_ids)
        return rows

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Codes or embeddings of packed rows -> hidden states [N, C] after the final norm."""
        hidden: Tensor = self.model(input_ids, positions, intermediate_tensors, inputs_embeds)
        return hidden

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [S, C] -> logits [S, V + 1] float32, the last of them -inf."""
        return F.pad(F.linear(hidden.float(), self.head, self.head_bias), (0, 1), value=float("-inf"))

    def take(self, lm: SpeechLM) -> None:
        """Copy the weights of a loaded network, whose matrices are as they were published."""
        num_codes = lm.ids.head_size
        self.head.copy_(lm.head)
        if lm.head_bias is not None:
            self.head_bias.copy_(lm.head_bias)
        table = self.model.embed_tokens.weight
        table.zero_()
        table[:num_codes].copy_(lm.speech_table[-num_codes:])
        self.model.norm.weight.copy_(lm.body.norm)
        for target, source in zip(self.model.layers, lm.body.layers, strict=True):
            assert isinstance(source, Qwen2Layer)
            _take_layer(target, source)


def _take_layer(target: Any, source: Qwen2Layer) -> None:
    config = source.config
    rotated = (config.num_heads + config.num_kv_heads) * config.head_dim
    target.input_layernorm.weight.copy_(source.attention_norm)
    target.post_attention_layernorm.weight.copy_(source.mlp_norm)
    pairs = (
        (target.self_attn.qkv_proj, source.qkv),
        (target.self_attn.o_proj, source.output),
        (target.mlp.gate_up_proj, source.gate_up),
        (target.mlp.down_proj, source.down),
    )
    for linear, matrix in pairs:
        assert isinstance(matrix, PlainMatrix)
        weight = matrix.weight.t()
        if matrix is source.qkv:
            assert matrix.bias is not None
            # vLLM's rotary pairs are half a head apart, ours are neighbours.
            weight = torch.cat([pairs_to_halves(weight[:rotated], config.head_dim), weight[rotated:]])
            bias = torch.cat([pairs_to_halves(matrix.bias[:rotated], config.head_dim), matrix.bias[rotated:]])
            linear.bias.copy_(bias)
        linear.weight.copy_(weight)


@register_model_loader(LOAD_FORMAT)
class LoadedNetworkLoader(BaseModelLoader):  # type: ignore[misc]
    """Takes the weights from a network in memory, "lm" of `model_loader_extra_config`."""

    def download_model(self, model_config: Any) -> None:
        """Nothing to fetch."""

    def load_weights(self, model: nn.Module, model_config: Any) -> None:
        """Copy the weights; the network may then be dropped."""
        assert isinstance(model, VLLMSpeechLM)
        with torch.no_grad():
            model.take(self.load_config.model_loader_extra_config.pop("lm"))


ModelRegistry.register_model(_ARCHITECTURE, VLLMSpeechLM)


def write_config(folder: Path, config: Qwen2Config, *, head_size: int, most_tokens: int) -> None:
    """Write the `config.json` by which vLLM knows the network."""
    values = {
        "architectures": [_ARCHITECTURE],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": most_tokens,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": head_size + 1,
    }
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
