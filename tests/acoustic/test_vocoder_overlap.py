"""Joining pieces of a symmetric vocoder, against the algorithm written out for one stream."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from light_tts.acoustic.vocoder import Vocoder, VocoderJob
from light_tts.acoustic.vocoder_overlap import Crossfade
from light_tts.models.nets.hift import build_hift
from light_tts.models.nets.hift_noise import NormalNoise

DIRECTORY = Path(__file__).parents[1] / "golden" / "cosyvoice2_tiny"
OVERLAP = 8 * 480


@pytest.fixture(scope="module")
def net():
    config = json.loads((DIRECTORY / "config.json").read_text())
    return build_hift(config["hift"], load_file(str(DIRECTORY / "hift.safetensors")), is_causal=False)


@pytest.fixture(scope="module")
def mel():
    return load_file(str(DIRECTORY / "token2wav.safetensors"))["offline.mel"][0]


def streamed(vocoder, pieces, seed):
    stream, outputs = vocoder.open(seed), []
    for index, piece in enumerate(pieces):
        outputs += vocoder.decode([VocoderJob(stream, (piece,), is_final=index == len(pieces) - 1)])
    return outputs


@torch.no_grad()
def test_reference_pieces_are_the_published_algorithm(net, mel):
    pieces = mel[:, :75].split([30, 25, 20], dim=1)
    index = torch.arange(2 * OVERLAP, dtype=torch.float64)
    window = (0.54 - 0.46 * torch.cos(2 * math.pi * index / (2 * OVERLAP - 1))).float()
    noise = NormalNoise(9, 9, torch.device("cpu"))
    expected, last_mel, last_source, last_speech = [], mel[:, :0], None, None
    for number, piece in enumerate(pieces):
        joined = torch.cat([last_mel, piece], dim=1)[None]
        source = net.source(net.f0(joined), noise.rows(number, 0, joined.shape[2] * 480)[None])
        if last_source is not None:
            source[0, 0, :OVERLAP] = last_source
        speech = net.generate(joined, source)[0]
        if last_speech is not None:
            speech[:OVERLAP] = speech[:OVERLAP] * window[:OVERLAP] + last_speech * window[OVERLAP:]
        last_mel, last_source, last_speech = joined[0, :, -8:], source[0, 0, -OVERLAP:], speech[-OVERLAP:].clone()
        expected.append(speech if number == 2 else speech[:-OVERLAP])
    actual = streamed(Vocoder(net, crossfade="reference"), pieces, seed=9)
    torch.testing.assert_close(torch.cat(actual), torch.cat(expected).clamp(-0.99, 0.99), atol=1e-6, rtol=0)


def test_unity_weights_sum_to_one_and_meet_their_ends(net):
    fade = Crossfade.named("unity", net)
    torch.testing.assert_close(fade.fade_in + fade.fade_out, torch.ones(OVERLAP))
    assert fade.fade_in[0] < 1e-6
    assert fade.fade_in[-1] > 1 - 1e-6
    assert (fade.fade_in.diff() >= 0).all()
    reference = Crossfade.named("reference", net)
    torch.testing.assert_close((reference.fade_in + reference.fade_out).mean(), torch.tensor(1.08), atol=1e-3, rtol=0)


def test_the_source_goes_on_in_phase_across_a_seam(net):
    """A steady tone stays one: the source of the next piece equals an unbroken one after the taken-over samples."""
    f0 = torch.full((1, 60), 207.0)
    whole = net.source(f0, torch.zeros(1, 60 * 480, 9))[0, 0]
    seen = []

    class Spy:
        samples_per_frame, harmonics, device = net.samples_per_frame, net.harmonics, net.device
        is_causal, m_source, limit = False, net.m_source, staticmethod(net.limit)

        def f0(self, mel):
            return f0[:, : mel.shape[2]]

        def generate(self, mel, source, **_):
            seen.append(source.clone())
            return source[:, 0]

    class Silence:
        def rows(self, piece, start, count):
            return torch.zeros(count, 9)

    for crossfade, largest in (("unity", 1e-4), ("reference", math.inf)):
        seen.clear()
        vocoder = Vocoder(Spy(), crossfade=crossfade)
        stream = vocoder.open(0, noise=Silence())
        parts = []
        for index, frames in enumerate((20, 20, 20)):
            parts += vocoder.decode([VocoderJob(stream, (torch.zeros(80, frames),), is_final=index == 2)])
        error = (torch.cat(parts) - whole).abs()
        # The half frame at either end of the utterance stands still in both.
        if crossfade == "unity":
            seams = torch.zeros(60 * 480, dtype=torch.bool)
            for end in (20, 40):
                seams[end * 480 - 240 : end * 480] = True  # faded against the standing end of the older piece
            assert error[~seams].max() < largest
        else:
            assert error[20 * 480 :].max() > 1e-2


def test_pieces_too_short_for_the_overlap_wait(net, mel):
    vocoder = Vocoder(net)
    outputs = streamed(vocoder, mel[:, :60].split([3, 3, 54], dim=1), seed=2)
    assert [output.shape[0] for output in outputs] == [0, 0, 60 * 480]
    # Only waiting: the frames that came early are decoded in one piece with the rest.
    [whole] = vocoder.decode([VocoderJob(vocoder.open(2), (mel[:, :60],), is_final=True)])
    torch.testing.assert_close(outputs[2], whole, atol=1e-6, rtol=0)


def test_an_end_without_mel_gives_out_what_was_held_back(net, mel):
    vocoder = Vocoder(net)
    stream = vocoder.open(1)
    [first] = vocoder.decode([VocoderJob(stream, (mel[:, :30],), is_final=False)])
    [rest] = vocoder.decode([VocoderJob(stream, (), is_final=True)])
    [whole] = vocoder.decode([VocoderJob(vocoder.open(1), (mel[:, :30],), is_final=True)])
    torch.testing.assert_close(torch.cat([first, rest]), whole, atol=1e-6, rtol=0)
