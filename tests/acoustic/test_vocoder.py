"""Streams through the vocoder: recorded chains, pieces, batches, seeds."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from light_tts.acoustic.vocoder import Vocoder, VocoderJob
from light_tts.models.nets.hift import build_hift
from light_tts.verify.report import Ledger
from light_tts.verify.vocoder_checks import check_token2wav_wav

GOLDEN = Path(__file__).parents[1] / "golden"
HOP = 480
ROUNDING = 2e-3  # of the symmetric network: rounding of the pitch adds up in the phase
SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=6)


def load(model):
    directory = GOLDEN / model
    config = json.loads((directory / "config.json").read_text())
    state = load_file(str(directory / "hift.safetensors"))
    return build_hift(config["hift"], state, is_causal=model == "cosyvoice3_tiny")


NETS = {name: load(model) for name, model in (("symmetric", "cosyvoice2_tiny"), ("causal", "cosyvoice3_tiny"))}
MELS = {
    name: load_file(str(GOLDEN / model / "token2wav.safetensors"))["offline.mel"][0]
    for name, model in (("symmetric", "cosyvoice2_tiny"), ("causal", "cosyvoice3_tiny"))
}
BOTH = pytest.mark.parametrize("kind", NETS)


def offline(kind, mel, seed=0):
    vocoder = Vocoder(NETS[kind])
    [samples] = vocoder.decode([VocoderJob(vocoder.open(seed), (mel,), is_final=True)])
    return samples


def streamed(vocoder, pieces, seed=0, flush=False):
    """The samples of each call; with `flush` the end is announced after the last piece, with nothing."""
    stream = vocoder.open(seed)
    calls = [(piece,) for piece in pieces] + ([()] if flush else [])
    outputs = []
    for index, call in enumerate(calls):
        outputs += vocoder.decode([VocoderJob(stream, call, is_final=index == len(calls) - 1)])
    return outputs


def cut(mel, sizes):
    return list(mel[:, : sum(sizes)].split([size for size in sizes if size], dim=1))


@pytest.mark.parametrize("model", ["cosyvoice2_tiny", "cosyvoice3_tiny"])
def test_recorded_chains_are_reproduced(model):
    directory = GOLDEN / model
    config = json.loads((directory / "config.json").read_text())
    ledger = Ledger(directory)
    chains = ledger.tensors("token2wav.safetensors")
    # Speed plans record no mel of their own; they say the short tokens with the prompt.
    spoken = ledger.tensors("flow_inference.safetensors")["mel_short.full.final"]
    mels = {
        name: chains.get(f"{name}.mel", spoken).split([call["mel_frames"] for call in plan], dim=2)
        for name, plan in config["plans"].items()
    }
    check_token2wav_wav(ledger, config, mels)
    assert len(ledger.rows) == 2 * len(config["plans"])
    assert not [row for row in ledger.rows if not row.ok]


@given(SIZES, st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_causal_stream_equals_offline_whatever_the_pieces(sizes, flush):
    mel = MELS["causal"].repeat(1, 3)
    pieces = cut(mel, sizes)
    outputs = streamed(Vocoder(NETS["causal"]), pieces, flush=flush)
    torch.testing.assert_close(torch.cat(outputs), offline("causal", mel[:, : sum(sizes)]), atol=1e-4, rtol=0)


@BOTH
@given(sizes=SIZES, flush=st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_stream_has_one_hop_of_samples_per_frame_within_the_limit(kind, sizes, flush):
    outputs = streamed(Vocoder(NETS[kind]), cut(MELS[kind].repeat(1, 3), sizes), flush=flush)
    received = 0
    for size, done in zip(sizes, range(1, len(outputs) + 1), strict=False):
        received += size
        if done < len(outputs):
            assert sum(output.shape[0] for output in outputs[:done]) == max(0, received - 8) * HOP
    samples = torch.cat(outputs)
    assert samples.shape == (sum(sizes) * HOP,)
    assert samples.dtype == torch.float32
    assert samples.abs().max() <= 0.99


@BOTH
def test_a_crowd_sounds_like_each_alone(kind):
    """Streams of several lengths, at different places, some ending, in one call."""
    vocoder, mel = Vocoder(NETS[kind]), MELS[kind]
    plans = [cut(mel, sizes) for sizes in ([50, 50], [30, 20, 30], [50, 7], [3, 60], [12])]
    alone = [torch.cat(streamed(vocoder, plan, seed)) for seed, plan in enumerate(plans)]
    streams = [vocoder.open(seed) for seed in range(len(plans))]
    together = [[] for _ in plans]
    for turn in range(3):
        rows = [row for row, plan in enumerate(plans) if turn < len(plan)]
        jobs = [VocoderJob(streams[row], (plans[row][turn],), turn == len(plans[row]) - 1) for row in rows]
        for row, samples in zip(rows, vocoder.decode(jobs), strict=True):
            together[row].append(samples)
    for expected, outputs in zip(alone, together, strict=True):
        torch.testing.assert_close(torch.cat(outputs), expected, atol=ROUNDING, rtol=0)


@BOTH
def test_several_pieces_in_one_job_equal_one_job_each(kind):
    vocoder, pieces = Vocoder(NETS[kind]), tuple(cut(MELS[kind], [20, 40, 15]))
    [samples] = vocoder.decode([VocoderJob(vocoder.open(4), pieces, is_final=True)])
    torch.testing.assert_close(samples, torch.cat(streamed(vocoder, pieces, 4)), atol=ROUNDING, rtol=0)


def test_the_seed_decides_the_noise():
    mel = MELS["symmetric"][:, :40]
    assert torch.equal(offline("symmetric", mel, 3), offline("symmetric", mel, 3))
    assert not torch.allclose(offline("symmetric", mel, 3), offline("symmetric", mel, 4), atol=1e-4)


@BOTH
def test_nothing_in_nothing_out(kind):
    vocoder = Vocoder(NETS[kind])
    stream = vocoder.open(0)
    assert vocoder.decode([VocoderJob(stream, (), is_final=False)])[0].shape == (0,)
    assert vocoder.decode([VocoderJob(stream, (), is_final=True)])[0].shape == (0,)
    assert vocoder.decode([]) == []


@BOTH
def test_a_stream_ends_with_its_final_job_or_when_closed(kind):
    vocoder = Vocoder(NETS[kind])
    ended, closed = vocoder.open(0), vocoder.open(0)
    vocoder.decode([VocoderJob(ended, (MELS[kind][:, :10],), is_final=True)])
    closed.close()
    closed.close()
    for stream in (ended, closed):
        assert not stream.is_open
        with pytest.raises(AssertionError, match="has ended"):
            vocoder.decode([VocoderJob(stream, (MELS[kind][:, :10],), is_final=True)])


@BOTH
def test_what_is_carried_does_not_grow(kind):
    vocoder = Vocoder(NETS[kind])
    stream, sizes = vocoder.open(0), []
    for _ in range(4):
        vocoder.decode([VocoderJob(stream, (MELS[kind][:, :50],), is_final=False)])
        tensors = [value for value in vars(stream.state).values() if isinstance(value, torch.Tensor)]
        sizes.append(sum(tensor.untyped_storage().nbytes() for tensor in tensors))
    assert sizes[1] == sizes[2] == sizes[3]


@pytest.mark.gpu
@BOTH
def test_the_gpu_agrees_with_the_cpu(kind):
    """Streams in ragged company on the GPU, TF32 off."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    model = {"symmetric": "cosyvoice2_tiny", "causal": "cosyvoice3_tiny"}[kind]
    directory = GOLDEN / model
    config = json.loads((directory / "config.json").read_text())
    state = load_file(str(directory / "hift.safetensors"))
    net = build_hift(config["hift"], state, is_causal=kind == "causal", device="cuda")
    table = load_file(str(directory / "vocoder.safetensors"))["noise_table"]

    class Rows:
        def __init__(self, device):
            self.table = table.to(device)

        def rows(self, piece, start, count):
            return self.table[(torch.arange(count, device=self.table.device) + start) % self.table.shape[0]]

    results = []
    for vocoder, device in ((Vocoder(NETS[kind]), "cpu"), (Vocoder(net), "cuda")):
        streams = [vocoder.open(0, noise=Rows(device)) for _ in range(3)]
        parts = [[], [], []]
        for turn in range(2):
            pieces = [MELS[kind][:, start + turn * size :][:, :size] for start, size in ((0, 50), (20, 30), (5, 30))]
            jobs = [VocoderJob(s, (p.to(device),), turn == 1) for s, p in zip(streams, pieces, strict=True)]
            for part, samples in zip(parts, vocoder.decode(jobs), strict=True):
                part.append(samples.cpu())
        results.append(torch.cat([torch.cat(part) for part in parts]))
    torch.testing.assert_close(results[1], results[0], atol=1e-2, rtol=0)
