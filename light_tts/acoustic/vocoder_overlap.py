"""Joining pieces of a symmetric vocoder: eight frames of overlap, a common source there, and a cross-fade.

Each piece is decoded on its own with zero padding at both edges, so the joined audio approximates the offline audio.
The last eight frames of a piece are decoded again at the head of the next one; their source is taken over from the
earlier piece, so that both versions of these samples oscillate in step, and one is faded into the other.
Spec: token2wav, section 2, "v2 vocoder state".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from light_tts.models.nets.hift import HiftNet
from light_tts.models.nets.hift_noise import NoiseSource

OVERLAP_FRAMES = 8


@dataclass(frozen=True, eq=False)
class Crossfade:
    """How a piece is joined to the one before: weights over the overlap, and what the source does after it.

    fade_in, fade_out:  [8 * 480] weights of the newer and of the older piece.
    continues_phase:    the harmonics of the newer piece go on from the phase of the older one.

    reference:  halves of a symmetric Hamming window, which sum to 1.08 (0.7 dB too loud) and step by 8 % at both ends.
                The phase starts again with each piece, so the harmonics jump where the taken-over source ends.
    unity:      raised cosine. It sums to one, as it must where both pieces are nearly equal, and its ends meet 0 and 1
                without a step, where each piece is at its worst: next to its own zero padding. The phase goes on, which
                halves the spectral error at the seams (measured against offline audio of the built-in voices).
    """

    fade_in: Tensor
    fade_out: Tensor
    continues_phase: bool

    @staticmethod
    def named(name: Literal["unity", "reference"], net: HiftNet) -> Crossfade:
        """The weights on the network's device."""
        count = OVERLAP_FRAMES * net.samples_per_frame
        position = torch.arange(2 * count, dtype=torch.float64)
        if name == "reference":
            window = 0.54 - 0.46 * torch.cos(2 * math.pi * position / (2 * count - 1))
        else:
            window = 0.5 - 0.5 * torch.cos(math.pi * (position + 0.5) / count)
        window = window.float().to(net.device)
        return Crossfade(window[:count], window[count:], continues_phase=name == "unity")


@dataclass(eq=False)
class OverlapState:
    """What a stream carries from piece to piece.

    mel:     [80, 8] the last frames of the last piece; before the first piece is decoded, frames still too few for one.
    source:  [3840] their source samples; None until a piece was decoded.
    phases:  [harmonics] float64 cycles at the centre of the last frame.
    speech:  [3840] their waveform, held back.
    piece:   number of pieces decoded.
    """

    noise: NoiseSource
    mel: Tensor | None = None
    source: Tensor | None = None
    phases: Tensor | None = None
    speech: Tensor | None = None
    piece: int = 0


def decode_overlapping(
    net: HiftNet, crossfade: Crossfade, states: list[OverlapState], pieces: list[Tensor], finals: list[bool]
) -> list[Tensor]:
    """Decode one piece [80, M] of each stream (M = 0: only flush); rows of equal length run as one batch.

    Returns the finished samples [N] of each row and updates the states.
    """
    outputs: list[Tensor] = [torch.empty(0, device=net.device)] * len(states)
    groups: dict[int, list[int]] = {}
    for row, (state, piece, is_final) in enumerate(zip(states, pieces, finals, strict=True)):
        if piece.shape[1] == 0 and state.speech is not None:
            if is_final:
                outputs[row] = net.limit(state.speech)
            continue
        state.mel = piece if state.mel is None else torch.cat([state.mel, piece], dim=1)
        length = state.mel.shape[1]
        # Eight frames must remain for the next piece; fewer wait here for more.
        if length >= OVERLAP_FRAMES or (is_final and length > 0):
            groups.setdefault(length, []).append(row)
    for rows in groups.values():
        samples = _decode_group(net, crossfade, [states[row] for row in rows], [finals[row] for row in rows])
        for row, row_samples in zip(rows, samples, strict=True):
            outputs[row] = row_samples
    return outputs


def _decode_group(net: HiftNet, crossfade: Crossfade, states: list[OverlapState], finals: list[bool]) -> list[Tensor]:
    mel = torch.stack([state.mel for state in states if state.mel is not None]).float()
    source, phases = _source(net, crossfade, states, mel)
    speech = net.generate(mel, source, by_graph=True)
    overlap = OVERLAP_FRAMES * net.samples_per_frame
    outputs = []
    for row, (state, is_final) in enumerate(zip(states, finals, strict=True)):
        samples = speech[row]
        if state.speech is not None:
            faded = samples[:overlap] * crossfade.fade_in + state.speech * crossfade.fade_out
            samples = torch.cat([faded, samples[overlap:]])
        if not is_final:
            # Copies, so that a short tail does not keep the whole batch in memory.
            state.mel = mel[row, :, -OVERLAP_FRAMES:].clone()
            state.source = source[row, 0, -overlap:].clone()
            state.phases = phases[row, -1].clone()
            state.speech = samples[-overlap:].clone()
            samples = samples[:-overlap]
        state.piece += 1
        outputs.append(net.limit(samples))
    return outputs


def _source(net: HiftNet, crossfade: Crossfade, states: list[OverlapState], mel: Tensor) -> tuple[Tensor, Tensor]:
    """Source [B, 1, N] of the pieces, its beginning taken over from the pieces before, and its phases per frame."""
    hop = net.samples_per_frame
    noise = torch.stack([state.noise.rows(state.piece, 0, mel.shape[2] * hop) for state in states])
    f0 = net.f0(mel)
    phases = net.m_source.accumulate(f0)
    taken = OVERLAP_FRAMES * hop
    if crossfade.continues_phase:
        for row, state in enumerate(states):
            if state.phases is not None:
                phases[row] = (phases[row] + state.phases - phases[row, OVERLAP_FRAMES - 1]) % 1.0
        # Behind the centre of its last frame the older piece did not know the next pitch: its sines stand still there.
        taken -= hop // 2
    source = net.m_source.merge(net.m_source.sine_waves(f0, noise, phases))[:, None]
    for row, state in enumerate(states):
        if state.source is not None:
            source[row, 0, :taken] = state.source[:taken]
    return source, phases
