"""What is due of each stream of a symmetric vocoder, in the terms of `OverlapStep`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from light_tts.acoustic.vocoder import VocoderJob
from light_tts.acoustic.vocoder_overlap import OVERLAP_FRAMES, Crossfade
from light_tts.acoustic.vocoder_overlap_step import NUM_INTEGERS, OverlapStep
from light_tts.acoustic.vocoder_pool import StatePool
from light_tts.acoustic.vocoder_rows import Row, SlotStream, new_mel
from light_tts.acoustic.vocoder_sizes import SizeLadder
from light_tts.models.nets.hift_noise import mix
from light_tts.models.nets.hift_packed import PackedHift
from light_tts.types import MEL_BINS


class OverlapRows:
    """Turns pieces into rows and rows into samples; changes a stream only in `settle`."""

    num_integers = NUM_INTEGERS
    padding = (OVERLAP_FRAMES, 0, 1)  # a row that only fills a batch, after its slot
    # Pieces of a stream have 16 to 58 frames, with the eight that are faded: most first ones 44, most others 58. The
    # rest is for whole utterances, which must not be cut.
    ladder = SizeLadder((32, 44, 58, 86, 128, 192, 256, 320, 384, 512, 768, 1024, 1536, 2048, 3072, 4096))

    def __init__(self, packed: PackedHift, crossfade: Crossfade) -> None:
        self.step = OverlapStep(packed, crossfade)
        self._net = packed.net

    def pieces_of(self, job: VocoderJob[SlotStream]) -> list[Tensor]:
        """Piece by piece, because where it was cut is audible; an end without a piece flushes."""
        return list(job.pieces) or ([torch.empty(MEL_BINS, 0)] if job.is_final else [])

    def row_of(self, stream: SlotStream, piece: Tensor, is_final: bool) -> Row | None:
        """The row of a piece; None when there is nothing to decode: too little, which waits, or nothing new."""
        is_first = stream.piece == 0
        mel = new_mel(stream, piece)
        frames = mel.shape[1] + (0 if is_first else OVERLAP_FRAMES)
        if mel.shape[1] == 0:
            return None
        if is_first and frames < OVERLAP_FRAMES and not is_final:
            stream.pending.append(piece)
            return None
        integers = (frames, mix(stream.seed, stream.piece), int(is_first))
        end = (frames - (0 if is_final else OVERLAP_FRAMES)) * self._net.samples_per_frame
        return Row(stream, mel, frames, integers, 0, end, is_final)

    def settle(self, row: Row) -> None:
        """The row has been decoded."""
        row.stream.pending = []
        row.stream.piece += 1

    def finisher(self, row: Row) -> Callable[[Tensor], Tensor]:
        """What is left to be done to a settled row's samples on the host: nothing."""
        return _as_they_are

    def held_back(self, slot: int, pool: StatePool) -> Tensor:
        """The eight frames of samples, on the device, that an utterance ends with when nothing follows."""
        return self._net.limit(pool.tensors["speech"][slot])


def _as_they_are(samples: Tensor) -> Tensor:
    return samples
