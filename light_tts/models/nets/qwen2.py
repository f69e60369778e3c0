"""The Qwen2 decoder body (Yang et al. 2024, arXiv:2407.10671) over packed rows.

Knows nothing of batches, pages or sampling: rows of all sequences lie one after another in `[N, C]`, and attention is
asked of a context that owns the keys and values. Two storage choices differ from the checkpoint's:

- Matrices are fused: q, k, v in one, gate and up in one. How their numbers are kept is `matrix.py`'s business.
- The two halves of a rotary pair (j, j + D/2) are neighbours (2j, 2j + 1), in queries and keys alike, so that a
  rotation is one complex product. Scores are the same, since both sides are permuted together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from light_tts.errors import CheckpointError
from light_tts.models.nets.matrix import MakeMatrix, Matrix, PlainMatrix


@dataclass(frozen=True)
class Qwen2Config:
    """Sizes of the body, in the terms of the checkpoint's own `config.json`."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float
    vocab_size: int

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Qwen2Config:
        """Read the names of a Hugging Face `config.json`. Raises CheckpointError naming what is missing or unknown."""
        required = (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "rms_norm_eps", "rope_theta", "vocab_size",
        )  # fmt: skip
        missing = [name for name in required if values.get(name) is None]
        if missing:
            raise CheckpointError(f"The language model's config.json lacks {', '.join(missing)}.")
        if values.get("hidden_act", "silu") != "silu":
            raise CheckpointError(f"The language model's hidden_act is {values['hidden_act']!r}, expected 'silu'.")
        heads, kv_heads = int(values["num_attention_heads"]), int(values["num_key_value_heads"])
        if heads % kv_heads:
            raise CheckpointError(f"{heads} attention heads cannot share {kv_heads} key-value heads evenly.")
        return cls(
            hidden_size=int(values["hidden_size"]),
            intermediate_size=int(values["intermediate_size"]),
            num_layers=int(values["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=int(values.get("head_dim") or int(values["hidden_size"]) // heads),
            norm_eps=float(values["rms_norm_eps"]),
            rope_theta=float(values["rope_theta"]),
            vocab_size=int(values["vocab_size"]),
        )

    def checkpoint_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of the body, by its key without the checkpoint's prefix."""
        hidden, inner = self.hidden_size, self.intermediate_size
        query, key = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"norm.weight": (hidden,)}
        for index in range(self.num_layers):
            layer = {
                "input_layernorm.weight": (hidden,),
                "post_attention_layernorm.weight": (hidden,),
                "self_attn.o_proj.weight": (hidden, query),
                "mlp.gate_proj.weight": (inner, hidden),
                "mlp.up_proj.weight": (inner, hidden),
                "mlp.down_proj.weight": (hidden, inner),
            }
            for name, width in (("q", query), ("k", key), ("v", key)):
                layer[f"self_attn.{name}_proj.weight"] = (width, hidden)
                layer[f"self_attn.{name}_proj.bias"] = (width,)
            shapes |= {f"layers.{index}.{key}": shape for key, shape in layer.items()}
        return shapes


class AttentionContext(Protocol):
    """Owner of the keys and values: the body hands over new ones and gets attention back."""

    def attend(self, layer: int, query: Tensor, key_value: Tensor) -> Tensor:
        """Store the new keys and values of one layer and attend from each row to its own past and itself.

        query:      [N, num_heads, head_dim], rotated.
        key_value:  [N, 2 * num_kv_heads, head_dim]: rotated keys, then values.

        Returns [N, num_heads * head_dim].
        """


class Qwen2Layer(nn.Module):
    """One decoder layer with fused matrices.

    qkv:      hidden -> queries, keys, values of all heads, with a bias.
    output:   attended heads -> hidden.
    gate_up:  hidden -> gates, then what they let through.
    down:     gated -> hidden.
    """

    qkv: Matrix
    output: Matrix
    gate_up: Matrix
    down: Matrix

    def __init__(self, config: Qwen2Config, index: int) -> None:
        super().__init__()
        self.config, self.index = config, index
        self.attention_norm = _parameter(config.hidden_size)
        self.mlp_norm = _parameter(config.hidden_size)

    def load(self, state: Mapping[str, Tensor], make_matrix: MakeMatrix, device: torch.device | str) -> None:
        """Fuse the checkpoint's tensors of this layer (keys without `layers.N.`)."""
        head_dim = self.config.head_dim

        def fused(kind: str) -> Tensor:
            query, key, value = (state[f"self_attn.{name}_proj.{kind}"] for name in "qkv")
            return torch.cat([_pairs_to_neighbours(query, head_dim), _pairs_to_neighbours(key, head_dim), value])

        def matrix(name: str, weight: Tensor, bias: Tensor | None = None) -> Matrix:
            return make_matrix(f"layers.{self.index}.{name}", weight, bias)

        self.qkv = matrix("qkv", fused("weight"), fused("bias"))
        self.output = matrix("output", state["self_attn.o_proj.weight"])
        self.gate_up = matrix("gate_up", torch.cat([state["mlp.gate_proj.weight"], state["mlp.up_proj.weight"]]))
        self.down = matrix("down", state["mlp.down_proj.weight"])
        for name, key in (("attention_norm", "input_layernorm"), ("mlp_norm", "post_attention_layernorm")):
            weight = state[f"{key}.weight"].to(device=device, dtype=torch.float32).contiguous()
            setattr(self, name, nn.Parameter(weight, requires_grad=False))

    def forward(self, hidden: Tensor, rotation: Tensor, context: AttentionContext) -> Tensor:
        """hidden [N, C], whose memory may be used -> [N, C]; rotation [N, 1, head_dim / 2] complex64."""
        config = self.config
        qkv = self.qkv.multiply(rms_norm(hidden, self.attention_norm, config.norm_eps))
        qkv = qkv.unflatten(-1, (-1, config.head_dim))
        rotate_(qkv[:, : config.num_heads + config.num_kv_heads], rotation)
        attended = context.attend(self.index, qkv[:, : config.num_heads], qkv[:, config.num_heads :])
        hidden = self.output.accumulate(hidden, attended)
        gate, up = self.gate_up.multiply(rms_norm(hidden, self.mlp_norm, config.norm_eps)).chunk(2, dim=-1)
        return self.down.accumulate(hidden, F.silu(gate).mul_(up))


class Qwen2Body(nn.Module):
    """All decoder layers and the final norm."""

    inverse_frequencies: Tensor

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Qwen2Layer(config, index) for index in range(config.num_layers))
        self.norm = _parameter(config.hidden_size)
        self.register_buffer("inverse_frequencies", torch.empty(0), persistent=False)

    def load(
        self,
        state: Mapping[str, Tensor],
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        make_matrix: MakeMatrix | None = None,
    ) -> None:
        """Take the checkpoint's tensors, keyed and shaped as `Qwen2Config.checkpoint_shapes` says.

        make_matrix:  stores the matrices in some other way than as they are, in `dtype`.
        """

        def plain(name: str, weight: Tensor, bias: Tensor | None) -> Matrix:
            return PlainMatrix(weight, bias, dtype=dtype, device=device)

        for index, layer in enumerate(self.layers):
            prefix = f"layers.{index}."
            own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            assert isinstance(layer, Qwen2Layer)
            layer.load(own, make_matrix or plain, device)
        self.norm = nn.Parameter(state["norm.weight"].to(device=device, dtype=torch.float32), requires_grad=False)
        width = self.config.head_dim
        exponents = torch.arange(0, width, 2, dtype=torch.int64).float() / width
        self.inverse_frequencies = (1.0 / self.config.rope_theta**exponents).to(device)

    def forward(
        self, hidden: Tensor, positions: Tensor, context: AttentionContext, selected: Tensor | None = None
    ) -> Tensor:
        """Run all layers over packed rows.

        hidden:     [N, C] in the model's dtype; its memory may be used.
        positions:  [N] int64, counted from 0 in each sequence.
        selected:   [S] int64 rows whose result is wanted; None: all.

        Returns [S, C] float32, after the final norm.
        """
        angles = positions[:, None].float() * self.inverse_frequencies
        rotation = torch.polar(torch.ones_like(angles), angles)[:, None]
        for layer in self.layers:
            hidden = layer(hidden, rotation, context)
        if selected is not None:
            hidden = hidden.index_select(0, selected)
        return rms_norm(hidden.float(), self.norm, self.config.norm_eps)


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x * rsqrt(mean(x^2) + eps) * w` in float32, in the dtype of `hidden` (Zhang and Sennrich 2019)."""
    return F.rms_norm(hidden.float(), (hidden.shape[-1],), weight, eps).to(hidden.dtype)


def rotate_(heads: Tensor, rotation: Tensor) -> None:
    """Rotary position embedding in place (Su et al. 2021, arXiv:2104.09864), computed in float32.

    heads:     [N, H, D] with rotary pairs as neighbours.
    rotation:  [N, 1, D / 2] complex64.
    """
    pairs = heads.unflatten(-1, (-1, 2))
    if heads.dtype == torch.float32:
        torch.view_as_complex(pairs).mul_(rotation)
    else:
        pairs.copy_(torch.view_as_real(torch.view_as_complex(pairs.float().contiguous()) * rotation))


def _pairs_to_neighbours(tensor: Tensor, head_dim: int) -> Tensor:
    """Reorder the rows of each head from (first halves, second halves) to neighbours."""
    halves: Tensor = tensor.unflatten(0, (-1, 2, head_dim // 2))
    return halves.transpose(1, 2).reshape(tensor.shape)


def pairs_to_halves(tensor: Tensor, head_dim: int) -> Tensor:
    """Rows of heads as they are kept here -> as checkpoints have them: first halves of rotary pairs, second halves."""
    neighbours: Tensor = tensor.unflatten(0, (-1, head_dim // 2, 2))
    return neighbours.transpose(1, 2).reshape(tensor.shape)


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)
