"""One vocoder call of a causal network on a GPU: streams go on exactly where they were.

The arithmetic of `vocoder_causal`, for rows of unequal length and without a look at the host.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from light_tts.acoustic.vocoder_pool import StatePool
from light_tts.models.nets.hift_packed import PackedHift
from light_tts.models.nets.hift_surroundings import CarriedTails, TailProbe, num_tail_values
from light_tts.types import MEL_BINS

# Columns of the integers that describe a row.
SLOT, PITCHED, GENERATED, TABLE_ROW, IS_FIRST = range(5)
NUM_INTEGERS = 5


class CausalStep:
    """Frames that wait for their lookahead and a new piece of each row -> samples."""

    def __init__(self, packed: PackedHift, table: Tensor) -> None:
        self._packed, self._table = packed, table
        net = packed.net
        self._hop, self._rate = net.samples_per_frame, net.spectra_per_frame
        self._f0_lookahead = net.f0_predictor.lookahead
        self._lookahead = net.generator.lookahead
        self.kept_frames = self._f0_lookahead + self._lookahead
        self._old_source = net.fourier.margin + self._lookahead * self._hop
        self._pitch_values, self._speech_values = self._tail_values()

    def _tail_values(self) -> tuple[int, int]:
        """How much pitch predictor and generator carry; asked by running them on one frame."""
        net, device = self._packed.net, self._packed.net.device
        pitch, speech = TailProbe(device), TailProbe(device)
        self._packed.f0(torch.zeros(1, 1 + self._f0_lookahead, MEL_BINS, device=device), pitch)
        spectra = torch.zeros(1, self._rate + 1, net.fourier.n_fft + 2, device=device)
        mel = torch.zeros(1, 1 + self._lookahead, MEL_BINS, device=device)
        self._packed.generate(mel, spectra, speech, torch.ones(1, dtype=torch.bool, device=device))
        speech.tail(spectra, self._rate + 1, self._rate)
        return num_tail_values(pitch.layers), num_tail_values(speech.layers)

    def state_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """What a stream carries; see `CausalState`."""
        return {
            "mel": ((self.kept_frames, MEL_BINS), torch.float32),
            "pitch_tail": ((self._pitch_values,), torch.float32),
            "speech_tail": ((self._speech_values,), torch.float32),
            "phases": ((self._packed.net.harmonics,), torch.float64),
            "source": ((self._old_source,), torch.float32),
        }

    def __call__(self, mel: Tensor, integers: Tensor, pool: StatePool) -> Tensor:
        """Decode one piece of each row.

        mel:       [B, L, 80] float32: a first piece from frame 0 on, another one from frame 7 on; the seven frames
                   before it come from the pool. Zeros behind a row's frames.
        integers:  [B, 5] int64: slot; frames whose pitch is found now; frames that the generator consumes now; row of
                   the noise table for the first new pitch; 1 for a first piece.

        Returns [B, 480 (L + 1)] samples that begin one frame before the frames consumed now (see `continue_causal`);
        a row's samples are complete up to 480 times its consumed frames, one frame more at the end of the utterance.
        """
        packed = self._packed
        slots, pitched, generated, table_rows, first = integers.t().contiguous().unbind(0)
        is_first = first.bool()
        length = mel.shape[1]
        head = torch.where(is_first[:, None, None], mel[:, : self.kept_frames], pool.read("mel", slots))
        mel = F.pad(torch.cat([head, mel[:, self.kept_frames :]], dim=1), (0, 0, 0, self.kept_frames + 1))
        pitch_mel = torch.where(
            is_first[:, None, None],
            mel[:, : length + self._f0_lookahead],
            mel[:, self._lookahead : self._lookahead + length + self._f0_lookahead],
        )
        tails = CarriedTails(_unless_first(pool.read("pitch_tail", slots), is_first), pitched)
        f0 = packed.f0(pitch_mel, tails)
        carried = _unless_first(pool.read("phases", slots), is_first)
        phases = packed.net.m_source.accumulate(f0, carried)
        source = packed.source(f0, phases, pitched, table_rows, self._table)
        window, old_source = self._windows(source, pool.read("source", slots), pitched, generated, is_first)
        speech = CarriedTails(_unless_first(pool.read("speech_tail", slots), is_first), generated)
        post = packed.generate(mel[:, : length + self._lookahead], packed.spectra(window), speech, is_first)
        samples = self._samples(packed.spectrum(post, generated * self._rate + 1), speech)
        pool.write("mel", slots, _slice(mel, generated, self.kept_frames))
        pool.write("pitch_tail", slots, tails.packed())
        pool.write("phases", slots, _slice(phases, pitched - 1, 1)[:, 0])
        pool.write("source", slots, old_source)
        pool.write("speech_tail", slots, speech.packed())
        return samples

    def _windows(
        self, new: Tensor, old: Tensor, pitched: Tensor, generated: Tensor, is_first: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Source with margins under the frames consumed now [B, 480 L + 16], and what of it the next call needs.

        What is left of the source before its new samples: a reflection at the start of an utterance, else what the
        call before has kept. Behind the last sample of an utterance it is reflected; elsewhere nobody looks there.
        """
        margin = self._packed.net.fourier.margin
        reflection = F.pad(new[:, 1 : margin + 1].flip(1), (0, self._old_source - margin))
        both = torch.cat([torch.where(is_first[:, None], reflection, old), new], dim=1)
        before = torch.where(is_first, margin, self._old_source)[:, None]
        count = pitched[:, None] * self._hop

        def at(places: Tensor) -> Tensor:
            beyond = places - before
            beyond = torch.where(beyond >= count, 2 * count - 2 - beyond, beyond)
            index = torch.where(places < before, places, self._old_source + beyond)
            return both.gather(1, index.clamp(0, both.shape[1] - 1))

        places = torch.arange(new.shape[1] + 2 * margin, device=new.device).expand(len(new), -1)
        kept = generated[:, None] * self._hop + torch.arange(self._old_source, device=new.device)
        return at(places), at(kept)

    def _samples(self, spectra: Tensor, tails: CarriedTails) -> Tensor:
        # The frame before the new ones is completed now; one more step is reached.
        before = self._packed.context(spectra, tails, self._rate + 1, self._rate)
        assert before is not None
        return self._packed.overlap_add(torch.cat([before, spectra], dim=1), after=1)


def _unless_first(states: Tensor, is_first: Tensor) -> Tensor:
    """Zeros in rows that start."""
    return torch.where(is_first[:, None], torch.zeros_like(states), states)


def _slice(x: Tensor, starts: Tensor, count: int) -> Tensor:
    """x [B, T, C], starts [B] -> [B, count, C] from each row's start on."""
    places = (starts[:, None] + torch.arange(count, device=x.device)).clamp(0, x.shape[1] - 1)
    return x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))
