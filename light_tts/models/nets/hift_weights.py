"""From the tensors of a published vocoder file to the weights of `HiftNet`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from light_tts.models.nets.hift_layers import polyphase

# Two spellings of a weight-normalised convolution: magnitude, direction.
_SPELLINGS = ((".parametrizations.weight.original0", ".parametrizations.weight.original1"), (".weight_g", ".weight_v"))


def fold_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace magnitude and direction by the weight itself, in float64 (Salimans & Kingma 2016, arXiv:1602.07868).

    Accepts the parametrization and the classic spelling and plain weights; strips "generator." from the keys.
    A magnitude without its direction stays in the result, where strict loading names it.
    """
    stripped = {key.replace("generator.", ""): value for key, value in state.items()}
    folded = dict(stripped)
    for magnitude_end, direction_end in _SPELLINGS:
        for key in stripped:
            name = key.removesuffix(magnitude_end)
            if name == key or name + direction_end not in stripped:
                continue
            magnitude, direction = folded.pop(key).double(), folded.pop(name + direction_end).double()
            norm = torch.linalg.vector_norm(direction.flatten(1), dim=1).view(-1, *[1] * (direction.dim() - 1))
            folded[name + ".weight"] = magnitude * direction / norm
    return folded


def arrange(folded: Mapping[str, Tensor], upsample_rates: list[int], is_causal: bool) -> dict[str, Tensor]:
    """Folded weights as `HiftNet` wants them: upsampling as phases, convolutions of height one, channels last."""
    arranged = dict(folded)
    for stage, factor in enumerate(upsample_rates):
        weight, bias = arranged.pop(f"ups.{stage}.weight", None), arranged.pop(f"ups.{stage}.bias", None)
        if weight is not None and bias is not None and weight.dim() == 3:
            weight, bias = polyphase(weight, bias, factor, is_causal)
            arranged[f"ups.{stage}.conv.weight"], arranged[f"ups.{stage}.conv.bias"] = weight, bias
    return {key: _channels_last(value) if value.dim() == 3 else value for key, value in arranged.items()}


def _channels_last(weight: Tensor) -> Tensor:
    return weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
