"""From the vocoder's last convolution to samples: the spectrum it stands for, and the inverse transform of that.

The plain version; `hift_spectrum_triton.py` computes the same in one kernel each. With a window of four hops and as
many taps the inverse transform is a product over a sliding window (see `models/nets/hift_istft.py`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def spectrum_plain(post: Tensor, ends: Tensor, max_magnitude: float) -> Tensor:
    """Log magnitudes and phase angles' sines -> real and imaginary parts, zeros from each row's end on.

    post:  [B, T, 2 K] float32: K log magnitudes, then K angles of which the sine is taken.
    ends:  [B] int64.
    Returns [B, T, 2 K] float32.
    """
    log_magnitude, phase = post.chunk(2, dim=2)
    magnitude = log_magnitude.exp().clamp_max(max_magnitude)
    angle = phase.sin()
    spectra = torch.cat([magnitude * angle.cos(), magnitude * angle.sin()], dim=2)
    inside = torch.arange(post.shape[1], device=post.device) < ends[:, None]
    return torch.where(inside[:, :, None], spectra, 0.0)


def overlap_add_plain(spectra: Tensor, synthesis: Tensor, *, before: int = 0, after: int = 0) -> Tensor:
    """Samples of the hops that all windows reach, with so many empty steps before and after the spectra.

    spectra:    [B, T, 2 K] float32.
    synthesis:  [taps, 2 K, hop] float32.
    Returns [B, (T + before + after - taps + 1) * hop] float32.
    """
    spectra = F.pad(spectra, (0, 0, before, after))
    taps = len(synthesis)
    steps = spectra.shape[1] - taps + 1
    windows = torch.cat([spectra[:, tap : tap + steps] for tap in range(taps)], dim=2)
    return (windows @ synthesis.flatten(0, 1)).flatten(1)
