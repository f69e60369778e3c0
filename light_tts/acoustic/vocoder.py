"""Mel pieces of many streams -> waveform, incrementally.

Two ways to go on where the last piece ended, chosen by the network: `vocoder_overlap` cross-fades pieces that are
decoded one by one (symmetric networks), `vocoder_causal` carries the left context of every layer and is exact (causal
networks).
Knows nothing of tokens, requests or threads; one thread owns a Vocoder and its streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from light_tts.acoustic.pending_samples import PendingSamples
from light_tts.acoustic.vocoder_causal import CausalState, continue_causal
from light_tts.acoustic.vocoder_overlap import Crossfade, OverlapState, decode_overlapping
from light_tts.models.nets.hift import HiftNet
from light_tts.models.nets.hift_noise import NoiseSource, NormalNoise, UniformTable


class VocoderStream:
    """One utterance on its way through the vocoder; all its state is here and nowhere else.

    Made by `Vocoder.open`. Ended by a final job, or by `close` when it is abandoned.
    """

    def __init__(self, state: OverlapState | CausalState) -> None:
        self._state: OverlapState | CausalState | None = state

    @property
    def is_open(self) -> bool:
        """False after the final job and after `close`."""
        return self._state is not None

    @property
    def state(self) -> OverlapState | CausalState:
        """What is carried from piece to piece. The stream must be open."""
        assert self._state is not None, "this vocoder stream has ended: open a new one for another utterance"
        return self._state

    def restore(self, state: OverlapState | CausalState) -> None:
        """Go back to a state of before; a stream closed meanwhile stays closed."""
        if self._state is not None:
            self._state = state

    def close(self) -> None:
        """Free what is carried; no more pieces. Harmless when already closed."""
        self._state = None


StreamKind = TypeVar("StreamKind")


class WaveStream(Protocol):
    """One utterance on its way through a vocoder."""

    def close(self) -> None:
        """Free what is carried; harmless when already closed. Any thread."""


class WaveDecoder(Protocol):
    """Mel pieces of many streams -> waveform: `Vocoder`, or `VocoderGraphs` on a GPU."""

    net: HiftNet

    def open(self, seed: int) -> Any:
        """Begin an utterance: a WaveStream of this decoder."""

    def decode(self, jobs: Sequence[VocoderJob[Any]]) -> list[Tensor]:
        """Decode the new pieces of several streams; see `Vocoder.decode`."""

    def launch(self, jobs: Sequence[VocoderJob[Any]]) -> list[PendingSamples]:
        """The same without waiting for the device. Calls take effect in the order in which they are launched."""


@dataclass(frozen=True, eq=False)
class VocoderJob(Generic[StreamKind]):
    """New mel of one stream.

    pieces:    consecutive pieces, each [80, M] float, M >= 1. May be empty with `is_final`: flush what is held back.
    is_final:  the last piece ends the utterance.
    """

    stream: StreamKind
    pieces: tuple[Tensor, ...]
    is_final: bool


class Vocoder:
    """Batched incremental decoder around a `HiftNet`.

        vocoder = Vocoder(net)
        stream = vocoder.open(seed=7)
        [samples] = vocoder.decode([VocoderJob(stream, (mel,), is_final=True)])  # offline: one piece, final

    crossfade:  how pieces of a symmetric network are joined, see `vocoder_overlap`; causal networks need no joining.
    """

    def __init__(self, net: HiftNet, *, crossfade: Literal["unity", "reference"] = "unity") -> None:
        self.net = net
        self._crossfade = Crossfade.named(crossfade, net)
        self._table = UniformTable(net.harmonics, net.device)

    def open(self, seed: int, *, noise: NoiseSource | None = None) -> VocoderStream:
        """Begin an utterance.

        seed:   the request's; decides the noise of symmetric networks (causal ones have a fixed table).
        noise:  another source of noise, for comparisons with recorded data.
        """
        if self.net.is_causal:
            return VocoderStream(CausalState(noise or self._table))
        return VocoderStream(OverlapState(noise or NormalNoise(seed, self.net.harmonics, self.net.device)))

    @torch.no_grad()
    def decode(self, jobs: Sequence[VocoderJob[VocoderStream]]) -> list[Tensor]:
        """Decode the new pieces of several streams, each stream at most once per call.

        Returns one [N] float32 tensor per job, on the network's device, within the audio limit. A stream that is not
        at its end holds back 8 frames: N counts 480 samples per frame over the whole stream, not per call.
        The samples do not depend on the other jobs (up to rounding). A call that raises changes no stream.
        """
        streams = [job.stream for job in jobs]
        assert len({id(stream) for stream in streams}) == len(streams), "one job per stream and call"
        before = [copy(stream.state) for stream in streams]  # tensors in a state are replaced, never written to
        try:
            samples = self._decode_causal(jobs) if self.net.is_causal else self._decode_overlapping(jobs)
        except BaseException:
            for stream, state in zip(streams, before, strict=True):
                stream.restore(state)
            raise
        for job in jobs:
            if job.is_final:
                job.stream.close()
        return samples

    def launch(self, jobs: Sequence[VocoderJob[VocoderStream]]) -> list[PendingSamples]:
        """See WaveDecoder."""
        return [PendingSamples.of(samples) for samples in self.decode(jobs)]

    def _decode_causal(self, jobs: Sequence[VocoderJob[VocoderStream]]) -> list[Tensor]:
        """Pieces of a job are simply consecutive mel here: where it was cut makes no difference."""
        states: list[CausalState] = []
        for job in jobs:
            state = job.stream.state
            assert isinstance(state, CausalState)
            for piece in job.pieces:
                state.append(piece.to(self.net.device))
            states.append(state)
        return continue_causal(self.net, states, [job.is_final for job in jobs])

    def _decode_overlapping(self, jobs: Sequence[VocoderJob[VocoderStream]]) -> list[Tensor]:
        """Piece by piece, because where it was cut is audible: first pieces of all jobs together, then second ones."""
        parts: list[list[Tensor]] = [[] for _ in jobs]
        empty = torch.empty(80, 0, device=self.net.device)
        queues = [list(job.pieces) or ([empty] if job.is_final else []) for job in jobs]
        for turn in range(max(map(len, queues), default=0)):
            rows = [row for row, queue in enumerate(queues) if turn < len(queue)]
            states: list[OverlapState] = []
            for row in rows:
                state = jobs[row].stream.state
                assert isinstance(state, OverlapState)
                states.append(state)
            pieces = [queues[row][turn].to(self.net.device) for row in rows]
            finals = [jobs[row].is_final and turn == len(queues[row]) - 1 for row in rows]
            outputs = decode_overlapping(self.net, self._crossfade, states, pieces, finals)
            for row, output in zip(rows, outputs, strict=True):
                parts[row].append(output)
        nothing = torch.empty(0, device=self.net.device)
        return [torch.cat(part) if len(part) > 1 else (part[0] if part else nothing) for part in parts]
