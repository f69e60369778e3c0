"""Fundamental frequency from a mel: five convolutions and a linear layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from light_tts.models.nets.hift_layers import Conv, History

NUM_CONVS = 5


class F0Predictor(nn.Module):
    """mel [B, M', 80] -> f0 [B, M] in Hz (Spec: vocoder, section 3).

    Symmetric: M = M', three taps around each frame.
    Causal:    the first convolution looks `lookahead` frames ahead, so M = M' - lookahead (the caller appends zeros
               at the end of an utterance); the others look back only.
    Errors of the pitch accumulate in the phase, so causal models compute it in float64 like the reference.
    """

    def __init__(self, mel_bins: int, channels: int, is_causal: bool) -> None:
        super().__init__()
        self.lookahead = 3 if is_causal else 0
        first = Conv(mel_bins, channels, 4) if is_causal else Conv(mel_bins, channels, 3, both_sides=1)
        reach = {"left": 2} if is_causal else {"both_sides": 1}
        # Activations take the odd places in the published numbering.
        convs = {"0": first} | {str(2 * i): Conv(channels, channels, 3, **reach) for i in range(1, NUM_CONVS)}
        self.condnet = nn.ModuleDict(convs)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel: Tensor, history: History | None = None) -> Tensor:
        """mel [B, M', 80] of any floating type -> [B, M] float32."""
        x = mel.to(self.classifier.weight.dtype)
        for conv in self.condnet.values():
            x = F.elu(conv(x, history))
        f0: Tensor = self.classifier(x).squeeze(2).abs()
        return f0.to(torch.float32)
