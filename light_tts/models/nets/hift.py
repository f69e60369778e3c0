"""HiFT vocoder: mel spectrogram -> waveform (Li et al. 2023, arXiv:2309.09493). Spec: vocoder.

mel -> f0 -> harmonic source; mel and the spectrum of the source -> spectrum at a quarter of the sample rate ->
inverse STFT. One network for both published kinds: symmetric (a piece is decoded as a whole) and causal (can be decoded
incrementally with `History`). Knows nothing of streams; see `light_tts.acoustic.vocoder`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from light_tts.errors import CheckpointError
from light_tts.models.nets.hift_f0 import F0Predictor
from light_tts.models.nets.hift_istft import OVERLAP, ShortTimeFourier
from light_tts.models.nets.hift_layers import Conv, History, ResBlock, Snake, Upsample, same_length_conv
from light_tts.models.nets.hift_source import HarmonicSource
from light_tts.models.nets.hift_weights import arrange, fold_weight_norm
from light_tts.models.nets.script import ScriptGraph, can_script
from light_tts.models.strict import load_strict

MAX_MAGNITUDE = 100.0
LAST_LEAKY_SLOPE = 0.01  # the slope before the last convolution is not the configured one


@dataclass(frozen=True)
class HiftConfig:
    """The `hift` section of a model's YAML, checked. Names as published."""

    in_channels: int
    base_channels: int
    nb_harmonics: int
    sampling_rate: int
    nsf_alpha: float
    nsf_sigma: float
    nsf_voiced_threshold: float
    upsample_rates: list[int]
    upsample_kernel_sizes: list[int]
    n_fft: int
    hop_len: int
    resblock_kernel_sizes: list[int]
    resblock_dilation_sizes: list[list[int]]
    source_resblock_kernel_sizes: list[int]
    source_resblock_dilation_sizes: list[list[int]]
    lrelu_slope: float
    audio_limit: float
    f0_channels: int
    conv_pre_look_right: int

    @staticmethod
    def from_mapping(config: Mapping[str, Any]) -> HiftConfig:
        """Raises CheckpointError naming a missing value or one that this network cannot have."""
        try:
            plain = {name: config[name] for name in HiftConfig.__dataclass_fields__ if name in config}
            read = HiftConfig(
                **{"conv_pre_look_right": 4} | plain,
                n_fft=config["istft_params"]["n_fft"],
                hop_len=config["istft_params"]["hop_len"],
                f0_channels=config["f0_predictor"]["cond_channels"],
            )
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"The vocoder section of the model's YAML lacks a value: {error}.") from error
        read._check()
        return read

    def _check(self) -> None:
        stages = len(self.upsample_rates)
        if self.n_fft != OVERLAP * self.hop_len:
            raise CheckpointError(
                f"The vocoder needs n_fft = {OVERLAP} * hop_len (istft_params), got {self.n_fft} and {self.hop_len}."
            )
        if not stages == len(self.upsample_kernel_sizes) == len(self.source_resblock_kernel_sizes):
            raise CheckpointError("The vocoder's YAML must name one kernel and one source block per upsample rate.")
        if any((k - u) % 2 or k < u for u, k in zip(self.upsample_rates, self.upsample_kernel_sizes, strict=True)):
            raise CheckpointError("The vocoder's upsample kernels must exceed their rates by an even number.")

    @property
    def samples_per_frame(self) -> int:
        """Waveform samples per mel frame: 480 in the published models."""
        return math.prod(self.upsample_rates) * self.hop_len


class HiftGenerator(nn.Module):
    """Mel and source spectrum -> log magnitudes and phases of the output spectrum, all time-major [B, T, C]."""

    def __init__(self, config: HiftConfig, is_causal: bool) -> None:
        super().__init__()
        base, rates, bins = config.base_channels, config.upsample_rates, config.n_fft // 2 + 1
        self.slope = config.lrelu_slope
        self.rates = rates
        self.lookahead = config.conv_pre_look_right if is_causal else 0
        self.conv_pre = (
            Conv(config.in_channels, base, self.lookahead + 1)
            if is_causal
            else Conv(config.in_channels, base, 7, both_sides=3)
        )
        self.ups, self.source_downs = nn.ModuleList(), nn.ModuleList()
        self.source_resblocks, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for stage, (rate, kernel) in enumerate(zip(rates, config.upsample_kernel_sizes, strict=True)):
            channels = base >> (stage + 1)
            self.ups.append(Upsample(base >> stage, channels, kernel, rate, is_causal))
            down = math.prod(rates[stage + 1 :])  # source spectrum steps per step of this stage
            reach = {"left": down - 1} if is_causal else {"both_sides": down // 2}
            self.source_downs.append(Conv(2 * bins, channels, 2 * down if down > 1 else 1, stride=down, **reach))
            source_kernel, source_dilations = (
                config.source_resblock_kernel_sizes[stage],
                config.source_resblock_dilation_sizes[stage],
            )
            self.source_resblocks.append(ResBlock(channels, source_kernel, source_dilations, is_causal))
            for size, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append(ResBlock(channels, size, dilations, is_causal))
        self.blocks_per_stage = len(config.resblock_kernel_sizes)
        self.conv_post = same_length_conv(base >> len(rates), 2 * bins, 7, 1, is_causal)

    def forward(
        self, mel: Tensor, spectra: Tensor, history: History | None = None, is_first: Tensor | None = None
    ) -> Tensor:
        """mel [B, M + lookahead, 80], source spectra [B, 120 M + 1, 18] -> [B, 120 M + 1, 18] float32.

        With a history (causal only) the M frames continue earlier ones; `is_first` [B] bool says which rows start. The
        last of the 120 M + 1 steps then belongs to the next call, except at the end of an utterance.
        """
        dtype = self.conv_pre.weight.dtype
        spectra = spectra.to(dtype)
        spectrum_rate = math.prod(self.rates)
        x, rate = self.conv_pre(mel.to(dtype)), 1
        for stage, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, self.slope), history, rate)
            rate *= self.rates[stage]
            if rate == spectrum_rate:
                x = _shift_one_step(x, history, rate, is_first)
            source = self.source_downs[stage](spectra, history, spectrum_rate)
            x = x + self.source_resblocks[stage](source, history, rate)
            x = self._mean_of_blocks(x, stage, history, rate)
        post: Tensor = self.conv_post(F.leaky_relu(x, LAST_LEAKY_SLOPE), history, rate)
        return post.float()

    def example(self, mel: Tensor, spectra: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs of a few frames, like these."""
        frames = 8
        steps = frames * math.prod(self.rates) + 1
        return mel.new_zeros(1, frames + self.lookahead, mel.shape[2]), spectra.new_zeros(1, steps, spectra.shape[2])

    def _mean_of_blocks(self, x: Tensor, stage: int, history: History | None, rate: int) -> Tensor:
        first = stage * self.blocks_per_stage
        total: Tensor = self.resblocks[first](x, history, rate)
        for index in range(first + 1, first + self.blocks_per_stage):
            total = total.add_(self.resblocks[index](x, history, rate))
        return total.mul_(1.0 / self.blocks_per_stage)


def _shift_one_step(x: Tensor, history: History | None, rate: int, is_first: Tensor | None) -> Tensor:
    """Put one step before x: at the start of an utterance its second step (a reflection), else the step before."""
    if history is None:
        return torch.cat([x[:, 1:2], x], dim=1)
    shifted = history.extend(x, 1, rate)
    if is_first is not None:
        shifted[:, 0] = torch.where(is_first[:, None], x[:, 1], shifted[:, 0])
    return shifted


class HiftNet(nn.Module):
    """The whole vocoder. Methods are the stages of one decode, each usable alone; mels are [B, 80, M] as published."""

    def __init__(self, config: HiftConfig, is_causal: bool) -> None:
        super().__init__()
        self.config, self.is_causal = config, is_causal
        self.samples_per_frame = config.samples_per_frame
        self.spectra_per_frame = math.prod(config.upsample_rates)
        self.harmonics = config.nb_harmonics + 1
        self.f0_predictor = F0Predictor(config.in_channels, config.f0_channels, is_causal)
        self.m_source = HarmonicSource(
            self.harmonics,
            self.samples_per_frame,
            config.sampling_rate,
            is_causal,
            sine_amplitude=config.nsf_alpha,
            noise_std=config.nsf_sigma,
            voiced_threshold_hz=config.nsf_voiced_threshold,
        )
        self.generator = HiftGenerator(config, is_causal)
        generator = self.generator
        # A module itself would be recorded with all modules below it, which takes four times as long.
        self._post = ScriptGraph(lambda *inputs: generator(*inputs), generator.example)
        self.fourier: ShortTimeFourier

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.m_source.l_linear.weight.device

    def f0(self, mel: Tensor, *, is_final: bool = True) -> Tensor:
        """mel [B, 80, M] -> f0 [B, M] Hz float32; a causal model that is not at the end gives M - 3 frames."""
        x = mel.transpose(1, 2)
        if is_final and self.is_causal:
            x = F.pad(x, (0, 0, 0, self.f0_predictor.lookahead))
        result: Tensor = self.f0_predictor(x)
        return result

    def source(self, f0: Tensor, noise: Tensor) -> Tensor:
        """f0 [B, M], noise [B, 480 M, 9] -> source [B, 1, 480 M]."""
        return self.m_source.merge(self.m_source.sine_waves(f0, noise))[:, None]

    def source_stft(self, source: Tensor) -> Tensor:
        """source [B, 1, 480 M] -> [B, 18, 120 M + 1]: real parts, then imaginary parts."""
        return self.fourier.spectra(self.fourier.reflect(source[:, 0])).transpose(1, 2)

    def generate(self, mel: Tensor, source: Tensor, *, is_final: bool = True, by_graph: bool = False) -> Tensor:
        """mel [B, 80, M] and source [B, 1, 480 M] -> waveform [B, 480 M] within the audio limit.

        by_graph: run the generator as a graph where there is one, so that its modules' hooks see nothing.

        Causal and not final: the last 4 frames are lookahead, one more is incomplete: [B, 480 (M - 5)].
        """
        x = mel.transpose(1, 2)
        spectra = self.fourier.spectra(self.fourier.reflect(source[:, 0]))
        if is_final:
            x = F.pad(x, (0, 0, 0, self.generator.lookahead))
        elif self.generator.lookahead:
            spectra = spectra[:, : -self.generator.lookahead * self.spectra_per_frame]
        compute = self._post if by_graph and can_script(self.device) else self.generator
        samples = self.fourier.whole_signal(self.spectrum(compute(x, spectra)))
        if self.is_causal and not is_final:
            samples = samples[:, : -self.samples_per_frame]
        return self.limit(samples)

    def spectrum(self, post: Tensor) -> Tensor:
        """Log magnitudes and phase angles' sines [B, T, 18] -> real and imaginary parts [B, T, 18]."""
        log_magnitude, phase = post.chunk(2, dim=2)
        magnitude = log_magnitude.exp().clamp_max_(MAX_MAGNITUDE)
        angle = phase.sin()
        return torch.cat([magnitude * angle.cos(), magnitude * angle.sin()], dim=2)

    def limit(self, samples: Tensor) -> Tensor:
        """Clamp to the audio limit (0.99)."""
        return samples.clamp(-self.config.audio_limit, self.config.audio_limit)


def build_hift(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    is_causal: bool,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    f0_dtype: torch.dtype | None = None,
) -> HiftNet:
    """Build the vocoder from the `hift` section of the YAML and the tensors of `hift.pt`.

    state:     either spelling of weight normalisation, any floating type, with or without the prefix "generator.".
    dtype:     of the generator's convolutions only; pitch, phase and inverse STFT stay float32 or better.
    f0_dtype:  of the f0 predictor; None is float64 for causal models (the reference's choice), else float32.
    Raises CheckpointError when config and tensors do not fit.
    """
    read = HiftConfig.from_mapping(config)
    with torch.device("meta"):
        net = HiftNet(read, is_causal)
    net.fourier = ShortTimeFourier(read.n_fft, read.hop_len).to(device)
    arranged = arrange(fold_weight_norm(state), read.upsample_rates, is_causal)
    parts: dict[str, dict[str, Tensor]] = {"f0_predictor": {}, "m_source": {}, "generator": {}}
    for key, value in arranged.items():
        part, _, rest = key.partition(".")
        if part in ("f0_predictor", "m_source"):
            parts[part][rest] = value
        else:
            parts["generator"][key] = value
    dtypes = {
        "f0_predictor": f0_dtype or (torch.float64 if is_causal else torch.float32),
        "m_source": torch.float32,
        "generator": dtype,
    }
    for part, tensors in parts.items():
        load_strict(net.get_submodule(part), tensors, f"hift.pt ({part})", dtype=dtypes[part], device=device)
    for module in net.modules():
        if isinstance(module, Snake):
            module.prepare()
    return net.eval()
