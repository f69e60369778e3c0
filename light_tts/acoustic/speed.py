"""Speaking rate: a mel resampled in time before the vocoder, which leaves the pitch as it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from light_tts.errors import InvalidRequest


class MelResampler:
    """Time-scaling of one utterance's mel, piece by piece.

    Linear interpolation with half-pixel centres: output frame i lies at input coordinate (i + 0.5) * speed - 0.5,
    clamped to the input; int(frames / speed) frames in all. The result does not depend on how the mel is cut. A mel
    that comes whole in a single final push is scaled by exactly frames / int(frames / speed) instead, as the reference
    does offline (Spec: token2wav, section 1).

    speed:  above 1 is faster. Raises InvalidRequest unless positive.
    """

    def __init__(self, speed: float) -> None:
        if not speed > 0:
            raise InvalidRequest(f"speed must be above 0, got {speed}; 1.0 leaves the speech as it is.", "speed")
        self.speed = speed
        self._received = 0  # input frames so far
        self._emitted = 0  # output frames so far
        self._carried: Tensor | None = None  # the last input frames, still needed

    def push(self, mel: Tensor, is_final: bool) -> Tensor:
        """Next piece [80, M] -> the output frames that are now certain [80, M'], M' >= 0. No push after a final one."""
        if is_final and self._received == 0:
            return self._whole(mel)
        frames = mel if self._carried is None else torch.cat([self._carried, mel], dim=1)
        self._received += mel.shape[1]
        first_kept = self._received - frames.shape[1]
        end = self._certain(is_final)
        output = self._interpolate(frames, first_kept, self._emitted, end)
        self._emitted = end
        keep_from = min(int(self._coordinate(end)), self._received)
        self._carried = frames[:, max(0, keep_from - first_kept) :].clone()
        return output

    def _whole(self, mel: Tensor) -> Tensor:
        total = int(mel.shape[1] / self.speed)
        if total == mel.shape[1] or total == 0:
            return mel[:, :total]
        return F.interpolate(mel[None].float(), size=total, mode="linear", align_corners=False)[0]

    def _coordinate(self, index: int) -> float:
        return max(0.0, (index + 0.5) * self.speed - 0.5)

    def _certain(self, is_final: bool) -> int:
        """How many output frames cannot change any more."""
        end = int(self._received / self.speed)
        if is_final:
            return end
        while end > self._emitted and self._last_needed(end - 1) >= self._received:
            end -= 1
        return max(end, self._emitted)

    def _last_needed(self, index: int) -> int:
        coordinate = self._coordinate(index)
        left = int(coordinate)
        return left if coordinate == left else left + 1

    def _interpolate(self, frames: Tensor, first_kept: int, start: int, end: int) -> Tensor:
        index = torch.arange(start, end, dtype=torch.float64)
        coordinate = ((index + 0.5) * self.speed - 0.5).clamp(0, max(self._received - 1, 0))
        left = coordinate.floor().long()
        weight = (coordinate - left).float().to(frames.device)
        right = (left + 1).clamp(max=max(self._received - 1, 0))
        left, right = (left - first_kept).to(frames.device), (right - first_kept).to(frames.device)
        before, after = frames[:, left].float(), frames[:, right].float()
        return before + (after - before) * weight
