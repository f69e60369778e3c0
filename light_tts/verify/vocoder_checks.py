"""Vocoder against recorded data: each stage, and the chains of a whole request. Tolerances are the data's README's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from light_tts.acoustic.speed import MelResampler
from light_tts.acoustic.vocoder import Vocoder, VocoderJob
from light_tts.models.nets.hift import HiftNet, build_hift
from light_tts.verify.report import Ledger

STAGES = "vocoder.safetensors"
CHAINS = "token2wav.safetensors"
WEIGHTS = "hift.safetensors"

F0_TOLERANCE_HZ = 2e-3
STAGE_TOLERANCE = 1e-4
WAV_FROM_MEL_TOLERANCE = 1e-3
CHAIN_TOLERANCE = 1e-2
CHAIN_MIN_SNR_DB = 40.0

ROWS_PER_PIECE = 997  # recorded noise moves on by this many rows from one piece to the next


@dataclass(frozen=True, eq=False)
class RecordedNoise:
    """Noise of the recordings: row (start + n + stride * piece) mod R of a short table [R, 9]."""

    table: Tensor
    rows_per_piece: int

    def rows(self, piece: int, start: int, count: int) -> Tensor:
        """[count, 9] float32."""
        index = torch.arange(count, device=self.table.device) + start + self.rows_per_piece * piece
        return self.table[index % self.table.shape[0]]


def is_causal(config: Mapping[str, Any]) -> bool:
    """Which kind of vocoder the recorded model has."""
    return str(config["model"]).startswith("cosyvoice3")


def recorded_noise(noise_table: Tensor, config: Mapping[str, Any]) -> RecordedNoise:
    """The noise rule of the recorded model."""
    return RecordedNoise(noise_table, 0 if is_causal(config) else ROWS_PER_PIECE)


def build_recorded_hift(ledger: Ledger, config: Mapping[str, Any]) -> HiftNet:
    """The vocoder of a directory of recorded data."""
    return build_hift(config["hift"], ledger.inputs(WEIGHTS), is_causal=is_causal(config))


@torch.no_grad()
def check_vocoder(ledger: Ledger, config: dict[str, Any]) -> None:
    """Every tensor of vocoder.safetensors: stages, intermediate activations, and the special calls of each kind."""
    net = build_recorded_hift(ledger, config)
    mel, f0, source = (ledger.input(STAGES, name) for name in ("mel", "f0", "source"))
    noise = recorded_noise(ledger.input(STAGES, "noise_table"), config)
    frames = mel.shape[2]
    rows = noise.rows(0, 0, frames * net.samples_per_frame)[None]
    ledger.compare(STAGES, "f0", net.f0(mel), F0_TOLERANCE_HZ)
    ledger.compare(STAGES, "uv_frames", net.m_source.voiced(f0), 0.0)
    waves_name = next(name for name in ledger.tensors(STAGES) if name.startswith("sine_waves_first_"))
    first = ledger.input(STAGES, waves_name).shape[1]
    ledger.compare(STAGES, waves_name, net.m_source.sine_waves(f0, rows)[:, :first], STAGE_TOLERANCE)
    ledger.compare(STAGES, "source", net.source(f0, rows), STAGE_TOLERANCE)
    ledger.compare(STAGES, "source_stft", net.source_stft(source), STAGE_TOLERANCE)
    names = [name for name in ledger.tensors(STAGES) if name.startswith("mid.")]
    activations = _record_activations(net.generator, [name.removeprefix("mid.") for name in names])
    samples = net.generate(mel, source)
    for name in names:
        ledger.compare(STAGES, name, activations[name.removeprefix("mid.")].transpose(1, 2), STAGE_TOLERANCE)
    ledger.compare(STAGES, "wav", samples, STAGE_TOLERANCE)
    whole = net.generate(mel, net.source(net.f0(mel), rows))
    ledger.compare(STAGES, "wav", whole, WAV_FROM_MEL_TOLERANCE)
    if is_causal(config):
        _check_partial(ledger, net, mel, rows)
    else:
        overwritten = source.clone()
        cached = ledger.input(STAGES, "cached.cache_source")
        overwritten[:, :, : cached.shape[2]] = cached
        ledger.compare(STAGES, "cached.wav", net.generate(mel, overwritten), STAGE_TOLERANCE)


def _check_partial(ledger: Ledger, net: HiftNet, mel: Tensor, noise: Tensor) -> None:
    """The same mel as the beginning of an utterance that goes on."""
    f0 = ledger.input(STAGES, "partial.f0")
    ledger.compare(STAGES, "partial.f0", net.f0(mel, is_final=False), F0_TOLERANCE_HZ)
    count = f0.shape[1] * net.samples_per_frame
    ledger.compare(STAGES, "partial.source", net.source(f0, noise[:, :count]), STAGE_TOLERANCE)
    source = ledger.input(STAGES, "partial.source")
    samples = net.generate(mel[:, :, : f0.shape[1]], source, is_final=False)
    ledger.compare(STAGES, "partial.wav", samples, STAGE_TOLERANCE)


def _record_activations(module: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """A dictionary that the next forward pass fills with the outputs of the named submodules."""
    recorded: dict[str, Tensor] = {}

    def recorder(name: str) -> Any:
        # A copy: later layers add to some outputs in place.
        return lambda _module, _inputs, output: recorded.__setitem__(name, output.clone())

    for name in names:
        module.get_submodule(name).register_forward_hook(recorder(name))
    return recorded


@torch.no_grad()
def run_plan_vocoder(
    net: HiftNet,
    plan: Sequence[Mapping[str, Any]],
    mel_chunks: Sequence[Tensor],
    noise_table: Tensor,
    config: Mapping[str, Any],
) -> list[Tensor]:
    """Vocode the mel of one plan as the reference does, with its cross-fade and the recorded noise.

    plan:        entries of config.json: `finalize` and `speed` of each call are read.
    mel_chunks:  the mel each call contributes, [1, 80, M] or [80, M], speed not applied.
    Returns the samples [N] emitted by each call.
    """
    vocoder = Vocoder(net, crossfade="reference")
    stream = vocoder.open(0, noise=recorded_noise(noise_table.to(net.device), config))
    resampler = MelResampler(float(plan[0]["speed"]))
    emitted = []
    for call, chunk in zip(plan, mel_chunks, strict=True):
        mel = chunk.reshape(chunk.shape[-2:])
        if resampler.speed != 1.0:
            mel = resampler.push(mel, bool(call["finalize"]))
        [samples] = vocoder.decode([VocoderJob(stream, (mel,), bool(call["finalize"]))])
        emitted.append(samples.cpu())
    return emitted


def check_token2wav_wav(ledger: Ledger, config: dict[str, Any], mels: Mapping[str, Sequence[Tensor]]) -> None:
    """Every `<name>.wav` of token2wav.safetensors, from the mel that each call of its plan produced.

    mels:  per plan name the chunks [1, 80, M] of its calls (what `<name>.mel` is the concatenation of).
    """
    net = build_recorded_hift(ledger, config)
    noise_table = ledger.input(CHAINS, "noise_table")
    for name, plan in config["plans"].items():
        emitted = run_plan_vocoder(net, plan, mels[name], noise_table, config)
        counts = [int(samples.shape[0]) for samples in emitted]
        ledger.exact(f"token2wav/{name} samples per call", counts, [int(call["samples"]) for call in plan])
        audio = torch.cat(emitted)[None]
        ledger.compare(CHAINS, f"{name}.wav", audio, CHAIN_TOLERANCE, min_snr_db=CHAIN_MIN_SNR_DB)
