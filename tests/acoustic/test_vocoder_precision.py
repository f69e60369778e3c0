"""How far the vocoder in half precision is from float32, on speech: the trained vocoder on a mel of a recording."""

from __future__ import annotations

import functools

import pytest
import torch

from light_tts.acoustic.vocoder import VocoderJob
from light_tts.acoustic.vocoder_graph import VocoderGraphs
from light_tts.assets import builtin_model_dir
from light_tts.audio_input import decode
from light_tts.frontend.features import prompt_mel
from light_tts.kernels.hift_conv import conv_plain
from light_tts.models.model_dir import ModelDirectory
from light_tts.models.nets.hift_packed import PLAIN_KERNELS
from light_tts.types import SAMPLE_RATE_HZ

MOST_HALF = 65504.0


@functools.cache
def mel():
    """One second of a woman's voice, [80, 50]."""
    path = builtin_model_dir() / "prompts" / "en_female.wav"
    wave, rate_hz = decode(path.read_bytes())
    assert rate_hz == SAMPLE_RATE_HZ
    return prompt_mel(torch.from_numpy(wave).flatten(), None).T[:, 50:100].contiguous()


def rounded_to_ten_bits(x):
    """The nearest float32 with a mantissa of ten bits, as tensor cores round in TF32."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


@functools.cache
def samples(kind):
    """(the second's samples, the largest number that enters a convolution)."""
    largest = []

    def conv(x, weights, epilogue, **context):
        largest.append(float(x.abs().max()))
        if kind == "tf32":
            x, weights = rounded_to_ten_bits(x), weights._replace(taps=rounded_to_ten_bits(weights.taps))
        return conv_plain(x, weights, epilogue, **context)

    dtype = torch.float32 if kind == "tf32" else getattr(torch, kind)
    net = ModelDirectory.open(builtin_model_dir()).load_vocoder(dtype=dtype)
    vocoder = VocoderGraphs(net, PLAIN_KERNELS._replace(conv=conv), dtype=dtype, records=False)
    return vocoder.decode([VocoderJob(vocoder.open(0), (mel(),), is_final=True)])[0], max(largest)


def signal_to_noise_db(kind):
    expected, found = samples("float32")[0], samples(kind)[0]
    return float(10.0 * torch.log10(expected.square().sum() / (found - expected).square().sum()))


def test_float16_is_as_exact_as_the_tensor_cores_products_of_float32():
    assert signal_to_noise_db("float16") > 55.0
    assert signal_to_noise_db("float16") > signal_to_noise_db("tf32") - 3.0


def test_bfloat16_is_three_bits_worse():
    assert 35.0 < signal_to_noise_db("bfloat16") < signal_to_noise_db("float16") - 10.0


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_nothing_comes_near_the_largest_number_of_float16(kind):
    assert samples(kind)[1] < MOST_HALF / 100
