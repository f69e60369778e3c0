"""What is due of each stream of a causal vocoder, in the terms of `CausalStep`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from light_tts.acoustic.vocoder import VocoderJob
from light_tts.acoustic.vocoder_causal_step import NUM_INTEGERS, CausalStep
from light_tts.acoustic.vocoder_pool import StatePool
from light_tts.acoustic.vocoder_rows import Row, SlotStream, new_mel
from light_tts.acoustic.vocoder_sizes import SizeLadder
from light_tts.models.nets.hift_noise import DeviceTable
from light_tts.models.nets.hift_packed import PackedHift
from light_tts.types import MEL_BINS


class CausalRows:
    """Turns new mel into rows and rows into samples; changes a stream only in `settle`."""

    num_integers = NUM_INTEGERS
    padding = (1, 1, 0, 1)  # a row that only fills a batch, after its slot
    # A first piece has 27 frames or more, most have 44; whole chunks of 50 come with 7 that waited. More mel than the
    # longest is decoded in several calls.
    ladder = SizeLadder((32, 44, 57, 82, 107, 157, 207, 256, 320, 384, 512))

    def __init__(self, packed: PackedHift) -> None:
        self._net = packed.net
        self._table = DeviceTable(packed.net.harmonics, packed.net.device)
        fourier = packed.net.fourier
        self._first_gain, self._last_gain = fourier.first_gain.cpu().numpy(), fourier.last_gain.cpu().numpy()
        self.step = CausalStep(packed, self._table.numbers)

    def pieces_of(self, job: VocoderJob[SlotStream]) -> list[Tensor]:
        """Pieces of a job are simply consecutive mel here: where it is cut makes no difference."""
        if job.pieces:
            mel = torch.cat(job.pieces, dim=1) if len(job.pieces) > 1 else job.pieces[0]
            # Beside the new frames a call holds those that waited.
            return list(mel.split(self.ladder.frames[-1] - self.step.kept_frames, dim=1))
        return [torch.empty(MEL_BINS, 0)] if job.is_final else []

    def row_of(self, stream: SlotStream, piece: Tensor, is_final: bool) -> Row | None:
        """The row of a piece; None when no frame can be generated yet: the piece waits."""
        net, hop = self._net, self._net.samples_per_frame
        received = stream.received + piece.shape[1]
        pitched = received - (0 if is_final else net.f0_predictor.lookahead)
        generated = pitched - (0 if is_final else net.generator.lookahead)
        if generated <= stream.generated:
            stream.pending.append(piece)
            stream.received = received
            return None
        is_first = stream.generated == 0
        mel = new_mel(stream, piece)
        new_pitched, new_generated = pitched - stream.pitched, generated - stream.generated
        first_row = self._table.row_of(stream.pitched * hop, new_pitched * hop)
        integers = (new_pitched, new_generated, first_row, int(is_first))
        frames = mel.shape[1] + (0 if is_first else self.step.kept_frames)
        begin = hop if is_first else 0
        return Row(stream, mel, frames, integers, begin, (new_generated + is_final) * hop, is_final)

    def settle(self, row: Row) -> None:
        """The row has been decoded."""
        stream = row.stream
        stream.received += row.mel.shape[1] - stream.num_pending
        stream.pending = []
        stream.pitched += row.integers[0]
        stream.generated += row.integers[1]
        stream.piece += 1

    def finisher(self, row: Row) -> Callable[[Tensor], Tensor]:
        """What is left to be done to a settled row's samples on the host.

        It makes good for the windows that are missing at both ends of an utterance.
        """
        hop, limit = self._net.fourier.hop, self._net.config.audio_limit
        is_beginning, is_final = row.stream.generated - row.integers[1] <= 1, row.is_final

        def finish(samples: Tensor) -> Tensor:
            values = samples.numpy()
            if is_beginning and len(values):
                values[:hop] *= self._first_gain
            if is_final:
                values[-hop:] *= self._last_gain
            np.clip(values, -limit, limit, out=values)
            return samples

        return finish

    def held_back(self, slot: int, pool: StatePool) -> Tensor:
        """A causal utterance that gets no more mel than it has generated already holds nothing back."""
        return torch.empty(0)
