"""The HiFT generator for a GPU: the weights of a `HiftNet`, a kernel per convolution, rows of unequal length.

Rows are padded on the right to one length; what lies behind a row's end never reaches what lies before it. Nothing here
looks at a value on the host, so that a call can be recorded as a CUDA graph. With the plain kernels it runs anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from light_tts.kernels.harmonic_source import SourceShape, counter_noise, harmonic_source_plain
from light_tts.kernels.hift_conv import Activation, ConvWeights, Epilogue, Tail, conv_plain, keep_plain, snakes_plain
from light_tts.kernels.hift_spectrum import overlap_add_plain, spectrum_plain
from light_tts.models.nets.hift import LAST_LEAKY_SLOPE, MAX_MAGNITUDE, HiftNet
from light_tts.models.nets.hift_layers import Conv, ResBlock, Snake, Upsample
from light_tts.models.nets.hift_surroundings import Surroundings


class HiftKernels(NamedTuple):
    """The fused parts; see the functions of `PLAIN_KERNELS`."""

    conv: Callable[..., tuple[Tensor | None, Tensor | None]]
    keep: Callable[[Tensor, Tail], None]
    snakes: Callable[[Tensor, Tensor, Tensor, torch.dtype], Tensor]
    source: Callable[..., Tensor]
    spectrum: Callable[[Tensor, Tensor, float], Tensor]
    overlap_add: Callable[..., Tensor]


def _source_plain(
    f0: Tensor, phases: Tensor, frames: Tensor, noise_keys: Tensor, shape: SourceShape, table: Tensor | None = None
) -> Tensor:
    """`harmonic_source_triton.harmonic_source` in plain torch."""
    count = f0.shape[1] * shape.samples_per_frame
    if table is None:
        noise = counter_noise(noise_keys, count, shape.harmonics)
    else:
        noise = table[(noise_keys[:, None] + torch.arange(count, device=f0.device)) % table.shape[0]]
    return harmonic_source_plain(f0, phases, frames, noise, shape)


PLAIN_KERNELS = HiftKernels(conv_plain, keep_plain, snakes_plain, _source_plain, spectrum_plain, overlap_add_plain)


def triton_kernels() -> HiftKernels:
    """The same for a GPU. Raises ImportError without Triton."""
    from light_tts.kernels.harmonic_source_triton import harmonic_source
    from light_tts.kernels.hift_conv_triton import conv, keep, snakes
    from light_tts.kernels.hift_spectrum_triton import overlap_add, spectrum

    return HiftKernels(conv, keep, snakes, harmonic_source, spectrum, overlap_add)


class _PackedConv(NamedTuple):
    weights: ConvWeights
    left: int  # context that comes from the surroundings: zeros or a tail
    right: int


class _PackedBlock(NamedTuple):
    """Convolutions in the order in which they run, and what activates the input of each."""

    convs: list[_PackedConv]
    snakes: list[Activation]


class PackedHift:
    """Pitch, source, generator and inverse transform of one loaded vocoder.

    dtype:  of what the generator's convolutions read and write: more of their time goes into memory than into products.
            They add in float32. float32 runs on TF32 tensor cores.
    """

    def __init__(self, net: HiftNet, kernels: HiftKernels, dtype: torch.dtype) -> None:
        self.net, self._kernels, self._dtype = net, kernels, dtype
        source, generator = net.m_source, net.generator
        self.source_shape = SourceShape(
            source.harmonics,
            source.samples_per_frame,
            source.sample_rate_hz,
            source.sine_amplitude,
            source.noise_std,
            source.voiced_threshold_hz,
            source.l_linear.weight[0].detach().float().contiguous(),
            source.l_linear.bias.detach().float(),
            source.is_causal,
        )
        self._f0_convs = [_unfolded(cast(Conv, conv)) for conv in net.f0_predictor.condnet.values()]
        classifier = net.f0_predictor.classifier
        self._classifier = classifier.weight.detach().float(), classifier.bias.detach().float()
        self._pre = self._pack(generator.conv_pre)
        self._ups = [self._pack(cast(Upsample, up).conv) for up in generator.ups]
        self._source_blocks = [self._pack_block(cast(ResBlock, block)) for block in generator.source_resblocks]
        self._blocks = [self._pack_block(cast(ResBlock, block)) for block in generator.resblocks]
        count = generator.blocks_per_stage
        self._firsts = [_first_snakes(self._blocks[k : k + count]) for k in range(0, len(self._blocks), count)]
        self._post = self._pack(generator.conv_post)
        self._downs = [self._pack_down(cast(Conv, conv)) for conv in generator.source_downs]
        fourier = net.fourier
        # [hop * OVERLAP, 2K] and [OVERLAP, 2K, hop]: both transforms are products over a sliding window.
        self._analysis = fourier.analysis[:, :, 0].permute(2, 1, 0).reshape(fourier.n_fft, -1).contiguous()
        self._synthesis = fourier.synthesis[:, :, 0].permute(2, 1, 0).contiguous()

    def _pack(self, conv: Conv) -> _PackedConv:
        taps = conv.weight.detach()[:, :, 0].permute(2, 1, 0).to(self._dtype).contiguous()
        weights = ConvWeights(taps, conv.bias.detach().float(), conv.dilation)
        return _PackedConv(weights, conv.left or conv.both_sides, conv.both_sides)

    def _pack_down(self, conv: Conv) -> ConvWeights:
        """A convolution with stride as one over blocks of that many steps, [kernel / stride, block, out]."""
        taps = F.pad(conv.weight.detach()[:, :, 0].permute(2, 1, 0), (0, 0, 0, _padding_of(conv.weight.shape[1])))
        taps = taps.unflatten(0, (-1, conv.stride)).flatten(1, 2)
        return ConvWeights(taps.to(self._dtype).contiguous(), conv.bias.detach().float())

    def _pack_block(self, block: ResBlock) -> _PackedBlock:
        convs: list[_PackedConv] = []
        snakes: list[Activation] = []
        for parts in zip(block.activations1, block.convs1, block.activations2, block.convs2, strict=True):
            for snake, conv in (parts[:2], parts[2:]):
                assert isinstance(snake, Snake)
                alpha = snake.alpha.detach().float()
                snakes.append(Activation("snake", self._dtype, alpha=alpha, inverse=1.0 / (alpha + 1e-9)))
                convs.append(self._pack(cast(Conv, conv)))
        return _PackedBlock(convs, snakes)

    def f0(self, mel: Tensor, around: Surroundings) -> Tensor:
        """mel [B, M (+ lookahead), 80] float32 -> f0 [B, M] Hz. Float32 throughout, never TF32: errors add up."""
        x, ends = mel, around.ends(1)
        inside = None if ends is None else _inside(x, ends)
        for index, (matrix, bias, kernel, width) in enumerate(self._f0_convs):
            if width:
                before = self.context(x, around, width, 1)
                x = F.pad(x, (0, 0, width, 0)) if before is None else torch.cat([before, x], dim=1)
            if not self.net.is_causal:
                x = F.pad(x, (0, 0, 1, 1))
            steps = x.shape[1] - kernel + 1
            windows = torch.cat([x[:, tap : tap + steps] for tap in range(kernel)], dim=2)
            x = F.elu(torch.addmm(bias, windows.flatten(0, 1), matrix).view(len(x), steps, -1))
            if inside is not None and index < len(self._f0_convs) - 1:
                x = x * inside
        return F.linear(x, *self._classifier).squeeze(2).abs()

    def context(self, x: Tensor, around: Surroundings, width: int, rate: int) -> Tensor | None:
        """[B, width, C]: what lies before x [B, T, C], whose own last steps are kept; None: zeros."""
        tail = around.tail(x, width, rate)
        if tail is None:
            return None
        self._kernels.keep(x, tail)
        return tail.before

    def source(
        self, f0: Tensor, phases: Tensor, frames: Tensor, noise_keys: Tensor, table: Tensor | None = None
    ) -> Tensor:
        """Source samples [B, M * 480]; see `harmonic_source`."""
        return self._kernels.source(f0, phases.float().contiguous(), frames, noise_keys, self.source_shape, table)

    def spectra(self, padded: Tensor) -> Tensor:
        """Samples with their margins [B, N + 2 margin] -> [B, N / hop + 1, 2K]."""
        fourier = self.net.fourier
        return padded.unfold(1, fourier.n_fft, fourier.hop) @ self._analysis

    def spectrum(self, post: Tensor, ends: Tensor) -> Tensor:
        """What `generate` returns, [B, T, 2K] -> real and imaginary parts, zeros from each row's end [B] on."""
        return self._kernels.spectrum(post, ends, MAX_MAGNITUDE)

    def overlap_add(self, spectra: Tensor, *, before: int = 0, after: int = 0) -> Tensor:
        """Spectra [B, T, 2K] with empty steps around them -> the hops of samples that all four windows reach."""
        return self._kernels.overlap_add(spectra, self._synthesis, before=before, after=after)

    def generate(self, mel: Tensor, spectra: Tensor, around: Surroundings, is_first: Tensor | None = None) -> Tensor:
        """mel [B, M + lookahead, 80], source spectra [B, 120 M + 1, 2K] -> [B, 120 M + 1, 2K] float32.

        is_first:  [B] bool of causal rows that start.
        See `HiftGenerator.forward`.
        """
        generator = self.net.generator
        slope = generator.slope
        rate, last_rate = 1, math.prod(generator.rates)
        leaky = Activation("leaky", self._dtype, slope)
        mel = mel.to(self._dtype).contiguous()
        _, activated = self._conv(self._pre, mel, around, 1, 0, Epilogue((), 1.0, leaky, False))
        for stage, up in enumerate(self._ups):
            assert activated is not None
            x, _ = self._conv(up, activated, around, rate, 0, Epilogue(sum_dtype=self._dtype))
            assert x is not None
            activated = None  # its memory is wanted
            factor = generator.rates[stage]
            x = x.view(len(x), x.shape[1] * factor, -1)
            rate *= factor
            extra = 0
            if rate == last_rate:
                x, extra = self._shift_one_step(x, around, rate, is_first), 1
            x = self._source_block(stage, spectra, x, around, rate, extra)
            is_last = stage == len(self._ups) - 1
            leaky = Activation("leaky", self._dtype, LAST_LEAKY_SLOPE if is_last else slope)
            activated = self._mean_of_blocks(stage, x, around, rate, extra, leaky)
        assert activated is not None
        post, _ = self._conv(self._post, activated, around, rate, 1, Epilogue())
        assert post is not None
        return post

    def _conv(
        self, conv: _PackedConv, x: Tensor, around: Surroundings, rate: int, extra: int, epilogue: Epilogue
    ) -> tuple[Tensor | None, Tensor | None]:
        tail = around.tail(x, conv.left, rate)
        epilogue = epilogue._replace(ends=around.ends(rate, extra))
        return self._kernels.conv(x, conv.weights, epilogue, left=conv.left, right=conv.right, tail=tail)

    def _shift_one_step(self, x: Tensor, around: Surroundings, rate: int, is_first: Tensor | None) -> Tensor:
        """Put one step before x: at the start of an utterance its second step (a reflection), else the step before."""
        before = self.context(x, around, 1, rate)
        if before is None:
            before = x[:, 1:2]
        elif is_first is not None:
            before = torch.where(is_first[:, None, None], x[:, 1:2], before)
        return torch.cat([before, x], dim=1)

    def _source_at(
        self, stage: int, spectra: Tensor, around: Surroundings, rate: int, extra: int
    ) -> tuple[Tensor, Tensor]:
        """The source's spectrum brought down to a stage's rate, [B, T, C], and the same activated."""
        conv = cast(Conv, self.net.generator.source_downs[stage])
        tail = self.context(spectra, around, conv.left, math.prod(self.net.generator.rates))
        before = conv.left or conv.both_sides
        batch, num_steps, channels = spectra.shape
        steps = spectra.new_zeros(
            batch, before + num_steps + conv.both_sides, channels + _padding_of(channels), dtype=self._dtype
        )
        steps[:, before : before + num_steps, :channels] = spectra
        if tail is not None:
            steps[:, :before, :channels] = tail
        blocks = steps.unflatten(1, (-1, conv.stride)).flatten(2)
        first = self._source_blocks[stage].snakes[0]
        epilogue = Epilogue((), 1.0, first, ends=around.ends(rate, extra), sum_dtype=self._dtype)
        total, activated = self._kernels.conv(blocks, self._downs[stage], epilogue)
        assert total is not None
        assert activated is not None
        return total, activated

    def _source_block(
        self, stage: int, spectra: Tensor, x: Tensor, around: Surroundings, rate: int, extra: int
    ) -> Tensor:
        """x plus the residual block of the source."""
        source, activated = self._source_at(stage, spectra, around, rate, extra)
        last = Epilogue((x,), sum_dtype=self._dtype)
        total, _ = self._run_block(self._source_blocks[stage], source, activated, around, rate, extra, last)
        assert total is not None
        return total

    def _mean_of_blocks(
        self, stage: int, x: Tensor, around: Surroundings, rate: int, extra: int, activation: Activation
    ) -> Tensor | None:
        """Mean of the stage's residual blocks, activated for the next convolution."""
        count = self.net.generator.blocks_per_stage
        blocks = self._blocks[stage * count : (stage + 1) * count]
        activated = self._kernels.snakes(x, *self._firsts[stage], self._dtype)
        sums: list[Tensor] = []
        for block, first in zip(blocks[:-1], activated[:-1], strict=True):
            total, _ = self._run_block(block, x, first, around, rate, extra, Epilogue(sum_dtype=self._dtype))
            assert total is not None
            sums.append(total)
        last = Epilogue(tuple(sums), 1.0 / count, activation, keeps_sum=False)
        return self._run_block(blocks[-1], x, activated[-1], around, rate, extra, last)[1]

    def _run_block(
        self,
        block: _PackedBlock,
        x: Tensor,
        activated: Tensor | None,
        around: Surroundings,
        rate: int,
        extra: int,
        last: Epilogue,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Run a residual block on x, whose first Snake is `activated`; `last` is added to its last convolution."""
        pairs = len(block.convs) // 2
        for index in range(pairs):
            first, second = 2 * index, 2 * index + 1
            assert activated is not None
            inner = Epilogue((), 1.0, block.snakes[second], keeps_sum=False)
            _, activated = self._conv(block.convs[first], activated, around, rate, extra, inner)
            assert activated is not None
            if index == pairs - 1:
                end = last._replace(residuals=(x, *last.residuals))
                return self._conv(block.convs[second], activated, around, rate, extra, end)
            outer = Epilogue((x,), 1.0, block.snakes[second + 1], sum_dtype=self._dtype)
            total, activated = self._conv(block.convs[second], activated, around, rate, extra, outer)
            assert total is not None
            x = total
        raise AssertionError("a residual block has convolutions")


def _first_snakes(blocks: Sequence[_PackedBlock]) -> tuple[Tensor, Tensor]:
    """Frequencies and their inverses [n, C] of the Snakes in front of several blocks that share their input."""
    firsts = [block.snakes[0] for block in blocks]
    alphas = torch.stack([cast(Tensor, snake.alpha) for snake in firsts])
    return alphas, torch.stack([cast(Tensor, snake.inverse) for snake in firsts])


def _padding_of(channels: int) -> int:
    """How many channels are missing to a multiple of eight: of half precision, as many as are read at once."""
    return -channels % 8


def _unfolded(conv: Conv) -> tuple[Tensor, Tensor, int, int]:
    """(matrix [kernel * in, out], bias [out], kernel, left context) of a convolution, float32."""
    weight = conv.weight.detach()[:, :, 0].float()
    kernel = weight.shape[2]
    matrix = weight.permute(2, 1, 0).reshape(-1, weight.shape[0]).contiguous()
    return matrix, conv.bias.detach().float(), kernel, conv.left


def _inside(x: Tensor, ends: Tensor) -> Tensor:
    """[B, T, 1] bool: which steps of x [B, T, C] come before each row's end [B]."""
    return (torch.arange(x.shape[1], device=x.device) < ends[:, None])[:, :, None]
