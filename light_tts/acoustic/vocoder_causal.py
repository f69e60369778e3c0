"""Continuing a causal vocoder exactly: every layer's left context, the phases and the sample counter are carried.

The result equals one offline call on the concatenated mel, whatever the pieces, at a constant cost per frame. Of M
frames received, the pitch is known for M - 3 (its lookahead), the generator has consumed M - 7 (four more), and samples
are given out for M - 8, because windows of the inverse STFT reach across the last border.
Spec: vocoder, sections 5 and 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from light_tts.models.nets.hift import HiftNet
from light_tts.models.nets.hift_layers import History
from light_tts.models.nets.hift_noise import NoiseSource


@dataclass(eq=False)
class CausalState:
    """What a stream carries.

    mel:        [80, received - generated] frames the generator has not consumed.
    received, pitched, generated:  frames seen so far by the stream, the f0 predictor, the generator.
    f0_tail, generator_tail:  left contexts of their layers, flat; None at the start.
    phases:     [harmonics] float64 cycles at the last pitched frame.
    source:     source samples from `margin` before the first sample of frame `generated` on.
    """

    noise: NoiseSource
    mel: Tensor | None = None
    received: int = 0
    pitched: int = 0
    generated: int = 0
    f0_tail: Tensor | None = None
    generator_tail: Tensor | None = None
    phases: Tensor | None = None
    source: Tensor | None = None

    def append(self, piece: Tensor) -> None:
        """Take in new mel [80, M]."""
        self.mel = piece if self.mel is None else torch.cat([self.mel, piece], dim=1)
        self.received += piece.shape[1]


@dataclass(eq=False)
class _Row:
    """One stream's part of a batch: how far this call brings it."""

    state: CausalState
    mel: Tensor
    is_final: bool
    pitched: int
    generated: int

    @property
    def new_pitched(self) -> int:
        return self.pitched - self.state.pitched

    @property
    def new_generated(self) -> int:
        return self.generated - self.state.generated


def continue_causal(net: HiftNet, states: Sequence[CausalState], finals: Sequence[bool]) -> list[Tensor]:
    """Decode what has become decodable in each stream; rows of unequal length are padded on the right.

    Returns the finished samples [N] of each row and updates the states.
    """
    outputs: list[Tensor] = [torch.empty(0, device=net.device)] * len(states)
    rows: dict[int, _Row] = {}
    for index, (state, is_final) in enumerate(zip(states, finals, strict=True)):
        pitched = state.received - (0 if is_final else net.f0_predictor.lookahead)
        generated = pitched - (0 if is_final else net.generator.lookahead)
        if state.mel is not None and generated > state.generated:
            rows[index] = _Row(state, state.mel.float(), is_final, pitched, generated)
    if not rows:
        return outputs
    batch = list(rows.values())
    _extend_source(net, batch)
    samples = _generate(net, batch)
    for index, row_samples in zip(rows, samples, strict=True):
        outputs[index] = row_samples
    for row in batch:
        row.state.mel = row.mel[:, row.new_generated :].clone()
        row.state.pitched, row.state.generated = row.pitched, row.generated
    return outputs


def _extend_source(net: HiftNet, batch: list[_Row]) -> None:
    """Pitch, phase and source of the new frames; appended to each stream's source."""
    lengths = [row.new_pitched for row in batch]
    starts = [row.state.pitched - row.state.generated for row in batch]
    mel = _stack([row.mel[:, start:].T for row, start in zip(batch, starts, strict=True)])
    mel = F.pad(mel, (0, 0, 0, max(lengths) + net.f0_predictor.lookahead - mel.shape[1]))
    history = History(_tails([row.state.f0_tail for row in batch]), lengths, net.device)
    f0 = net.f0_predictor(mel, history)
    carried = [row.state.phases for row in batch]
    begin = torch.zeros(net.harmonics, dtype=torch.float64, device=net.device)
    phases = net.m_source.accumulate(f0, torch.stack([begin if phase is None else phase for phase in carried]))
    hop = net.samples_per_frame
    counts = [(row.state, length * hop) for row, length in zip(batch, lengths, strict=True)]
    noise = _stack([state.noise.rows(0, state.pitched * hop, count) for state, count in counts])
    source = net.m_source.merge(net.m_source.sine_waves(f0, noise, phases))
    packed = history.packed()
    margin = net.fourier.margin
    for index, (row, length) in enumerate(zip(batch, lengths, strict=True)):
        state, new = row.state, source[index, : length * hop]
        left = new[1 : margin + 1].flip(0) if state.source is None else state.source
        right = new[-margin - 1 : -1].flip(0) if row.is_final else new[:0]
        state.source = torch.cat([left, new, right])
        state.phases, state.f0_tail = phases[index, length - 1].clone(), packed[index].clone()


def _generate(net: HiftNet, batch: list[_Row]) -> list[Tensor]:
    """Samples of the frames that are complete now."""
    hop, margin, rate = net.samples_per_frame, net.fourier.margin, net.spectra_per_frame
    lengths = [row.new_generated for row in batch]
    mel = _stack([row.mel[:, : length + net.generator.lookahead].T for row, length in zip(batch, lengths, strict=True)])
    mel = F.pad(mel, (0, 0, 0, max(lengths) + net.generator.lookahead - mel.shape[1]))
    sources = [row.state.source for row in batch if row.state.source is not None]
    windows = [source[: length * hop + 2 * margin] for source, length in zip(sources, lengths, strict=True)]
    history = History(_tails([row.state.generator_tail for row in batch]), lengths, net.device)
    is_first = torch.tensor([row.state.generated == 0 for row in batch], device=net.device)
    post = net.generator(mel, net.fourier.spectra(_stack(windows)), history, is_first)
    spectra = net.spectrum(post)
    # The frame before the new ones is completed now. Its spectra come from the last call; one more step is reached.
    spectra = history.extend(spectra, rate + 1, rate)
    if len(set(lengths)) > 1:
        # Padding must not leak into the last window of a shorter row that ends here.
        ends = torch.tensor([rate + 1 + rate * length + 1 for length in lengths], device=net.device)
        spectra = spectra * (torch.arange(spectra.shape[1], device=net.device) < ends[:, None])[:, :, None]
    samples = net.fourier.overlap_add(F.pad(spectra, (0, 0, 0, 1)))
    if not all(row.is_final for row in batch):
        for row, source, tail in zip(batch, sources, history.packed(), strict=True):
            row.state.source = source[row.new_generated * hop :].clone()
            row.state.generator_tail = tail.clone()
    return [_finished(net, row, row_samples) for row, row_samples in zip(batch, samples, strict=True)]


def _finished(net: HiftNet, row: _Row, samples: Tensor) -> Tensor:
    """Cut the complete frames out of `samples`, which begin one frame before the new ones and are padded at the end."""
    hop = net.samples_per_frame
    is_first = row.state.generated == 0
    end = (row.new_generated + row.is_final) * hop
    finished = samples[hop if is_first else 0 : end].clone()
    if finished.shape[0] and row.state.generated <= 1:
        net.fourier.correct_start(finished)
    if row.is_final:
        net.fourier.correct_end(finished)
    return net.limit(finished)


def _stack(rows: list[Tensor]) -> Tensor:
    """Rows [T_i, ...] of unequal length -> [B, max T, ...], zeros on the right."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _tails(tails: list[Tensor | None]) -> Tensor | None:
    """Contexts of a batch; zeros for streams that start, None when all do."""
    known = next((tail for tail in tails if tail is not None), None)
    if known is None:
        return None
    return torch.stack([torch.zeros_like(known) if tail is None else tail for tail in tails])
