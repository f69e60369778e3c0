"""One vocoder call of a symmetric network on a GPU: pieces of several streams, faded into what came before them.

The arithmetic of `vocoder_overlap`, for rows of unequal length and without a look at the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from light_tts.acoustic.vocoder_overlap import OVERLAP_FRAMES, Crossfade
from light_tts.acoustic.vocoder_pool import StatePool
from light_tts.models.nets.hift_packed import PackedHift
from light_tts.models.nets.hift_surroundings import Edges
from light_tts.types import MEL_BINS

# Columns of the integers that describe a row.
SLOT, FRAMES, NOISE_KEY, IS_FIRST = range(4)
NUM_INTEGERS = 4


class OverlapStep:
    """Kept frames and a new piece of each row -> samples."""

    kept_frames = OVERLAP_FRAMES

    def __init__(self, packed: PackedHift, crossfade: Crossfade) -> None:
        self._packed, self._crossfade = packed, crossfade
        net = packed.net
        self._hop = net.samples_per_frame
        self._overlap = OVERLAP_FRAMES * self._hop
        self._taken = self._overlap
        if crossfade.continues_phase:
            # Behind the centre of its last frame the older piece did not know the next pitch.
            self._taken -= self._hop // 2

    def state_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """What a stream carries; see `OverlapState`."""
        return {
            "mel": ((OVERLAP_FRAMES, MEL_BINS), torch.float32),
            "source": ((self._overlap,), torch.float32),
            "phases": ((self._packed.net.harmonics,), torch.float64),
            "speech": ((self._overlap,), torch.float32),
        }

    def __call__(self, mel: Tensor, integers: Tensor, pool: StatePool) -> Tensor:
        """Decode one piece of each row.

        mel:       [B, L, 80] float32, L >= 8: a first piece from frame 0 on, another one from frame 8 on; the eight
                   frames before it come from the pool.
        integers:  [B, 4] int64: slot, frames (the eight included), noise key, 1 for a first piece.

        Returns [B, 480 L] samples within the limit; those behind a row's frames are meaningless. The row's last eight
        frames are kept for its next piece.
        """
        net = self._packed.net
        slots, frames, keys, first = integers.t().contiguous().unbind(0)
        is_first = first.bool()
        mel = _where_first(is_first, mel, pool.read("mel", slots), OVERLAP_FRAMES)
        around = Edges(frames)
        f0 = self._packed.f0(mel, around)
        phases = net.m_source.accumulate(f0)
        if self._crossfade.continues_phase:
            shift = pool.read("phases", slots) - phases[:, OVERLAP_FRAMES - 1]
            phases = (phases + torch.where(is_first[:, None], 0.0, shift)[:, None]) % 1.0
        source = self._packed.source(f0, phases, frames, keys)
        source = _where_first(is_first, source, pool.read("source", slots), self._taken)
        samples = self._speech(mel, source, frames, around)
        faded = samples[:, : self._overlap] * self._crossfade.fade_in
        faded = faded + pool.read("speech", slots) * self._crossfade.fade_out
        samples = _where_first(is_first, samples, faded, self._overlap)
        pool.write("mel", slots, _last(mel, frames, OVERLAP_FRAMES))
        pool.write("source", slots, _last(source, frames * self._hop, self._overlap))
        pool.write("phases", slots, _last(phases, frames, 1)[:, 0])
        pool.write("speech", slots, _last(samples, frames * self._hop, self._overlap))
        return net.limit(samples)

    def _speech(self, mel: Tensor, source: Tensor, frames: Tensor, around: Edges) -> Tensor:
        """[B, 480 L] samples of each row as if it were alone."""
        fourier, rate = self._packed.net.fourier, self._packed.net.spectra_per_frame
        margin, counts = fourier.margin, frames * self._hop
        padded = torch.cat([source[:, 1 : margin + 1].flip(1), source, source[:, :margin]], dim=1)
        steps = torch.arange(margin, device=mel.device)
        reflected = source.gather(1, (counts[:, None] - 2 - steps).clamp_min(0))
        padded.scatter_(1, margin + counts[:, None] + steps, reflected)
        ends = frames * rate + 1
        spectra = _until(self._packed.spectra(padded), ends)
        spectra = self._packed.spectrum(self._packed.generate(mel, spectra, around), ends)
        samples = self._packed.overlap_add(spectra, before=1, after=1)
        fourier.correct_start(samples)
        last = counts[:, None] - fourier.hop + torch.arange(fourier.hop, device=mel.device)
        samples.scatter_(1, last, samples.gather(1, last) * fourier.last_gain)
        return samples


def _where_first(is_first: Tensor, x: Tensor, before: Tensor, count: int) -> Tensor:
    """x [B, T, ...] whose first `count` steps come from `before` in rows that are not first."""
    shape = (-1, *[1] * (x.dim() - 1))
    head = torch.where(is_first.view(shape), x[:, :count], before[:, :count].to(x.dtype))
    return torch.cat([head, x[:, count:]], dim=1)


def _last(x: Tensor, ends: Tensor, count: int) -> Tensor:
    """The `count` steps before each row's end: x [B, T, ...], ends [B] -> [B, count, ...]."""
    places = (ends[:, None] - count + torch.arange(count, device=x.device)).clamp_min(0)
    if x.dim() == 3:
        return x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))
    return x.gather(1, places)


def _until(x: Tensor, ends: Tensor) -> Tensor:
    """x [B, T, C] with zeros from each row's end on."""
    return torch.where((torch.arange(x.shape[1], device=x.device) < ends[:, None])[:, :, None], x, 0.0)
