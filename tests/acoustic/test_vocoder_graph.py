"""The vocoder over slots equals the plain one: pieces, batches, ends; with graphs on a GPU, without them anywhere."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from light_tts.acoustic import vocoder_graph
from light_tts.acoustic.vocoder import Vocoder, VocoderJob
from light_tts.acoustic.vocoder_graph import VocoderGraphs
from light_tts.errors import EngineFailure
from light_tts.kernels.harmonic_source import counter_noise
from light_tts.models.nets.hift import build_hift
from light_tts.models.nets.hift_noise import mix
from light_tts.models.nets.hift_packed import PLAIN_KERNELS
from tests.tf32 import tf32

GOLDEN = Path(__file__).parents[1] / "golden"
MODELS = {"symmetric": "cosyvoice2_tiny", "causal": "cosyvoice3_tiny"}
BOTH = pytest.mark.parametrize("kind", MODELS)
ROUNDING = 2e-3  # rounding of the pitch adds up in the phase
SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=5)


def load(kind, device="cpu"):
    directory = GOLDEN / MODELS[kind]
    config = json.loads((directory / "config.json").read_text())
    state = load_file(str(directory / "hift.safetensors"))
    return build_hift(
        config["hift"], state, is_causal=kind == "causal", device=device, f0_dtype=torch.float32
    ).requires_grad_(False)


NETS = {kind: load(kind) for kind in MODELS}
MELS = {
    kind: load_file(str(GOLDEN / model / "token2wav.safetensors"))["offline.mel"][0] for kind, model in MODELS.items()
}


class KeyedNoise:
    """The noise that the calls over slots make."""

    def __init__(self, seed, harmonics):
        self.seed, self.harmonics = seed, harmonics

    def rows(self, piece, start, count):
        key = torch.tensor([mix(self.seed, piece)])
        return counter_noise(key, start + count, self.harmonics)[0, start:]


def plain(kind, pieces_by_call, seed):
    """Samples of each call of the plain vocoder with the same noise."""
    vocoder = Vocoder(NETS[kind])
    noise = KeyedNoise(seed, vocoder.net.harmonics) if kind == "symmetric" else None
    stream = vocoder.open(seed, noise=noise)
    last = len(pieces_by_call) - 1
    return [
        vocoder.decode([VocoderJob(stream, tuple(pieces), is_final=index == last)])[0]
        for index, pieces in enumerate(pieces_by_call)
    ]


def together(vocoder, schedules):
    """Samples of each call of each stream; a call takes along every stream that still has pieces."""
    streams = [vocoder.open(seed) for seed in range(len(schedules))]
    outputs = [[] for _ in schedules]
    for call in range(max(map(len, schedules))):
        rows = [row for row, schedule in enumerate(schedules) if call < len(schedule)]
        jobs = [
            VocoderJob(streams[row], tuple(schedules[row][call]), is_final=call == len(schedules[row]) - 1)
            for row in rows
        ]
        for row, samples in zip(rows, vocoder.decode(jobs), strict=True):
            outputs[row].append(samples)
    return outputs


def cut(mel, sizes):
    return list(mel[:, : sum(sizes)].split(list(sizes), dim=1))


def compare(kind, outputs, schedules, tolerance=ROUNDING):
    for seed, (found, schedule) in enumerate(zip(outputs, schedules, strict=True)):
        expected = plain(kind, schedule, seed)
        assert [len(samples) for samples in found] == [len(samples) for samples in expected]
        torch.testing.assert_close(torch.cat(found), torch.cat(expected), atol=tolerance, rtol=0)


@BOTH
@given(sizes=st.lists(SIZES, min_size=1, max_size=3), flush=st.booleans())
@settings(max_examples=12, deadline=None)
def test_streams_of_any_pieces_sound_as_alone_in_the_plain_vocoder(kind, sizes, flush):
    mel = MELS[kind].repeat(1, 6)
    schedules = [[[piece] for piece in cut(mel[:, 10 * row :], row_sizes)] for row, row_sizes in enumerate(sizes)]
    if flush:
        schedules[0].append([])
    vocoder = VocoderGraphs(NETS[kind], PLAIN_KERNELS, records=False)
    compare(kind, together(vocoder, schedules), schedules)
    assert vocoder.num_slots_used == 0


@BOTH
def test_several_pieces_in_one_call_and_whole_utterances(kind):
    mel = MELS[kind].repeat(1, 6)
    long = mel.repeat(1, 3)[:, :530]  # more than a causal call takes at once
    schedules = [[cut(mel, (44, 50, 50)), cut(mel[:, 144:], (50, 12))], [[mel[:, :210]]], [[mel[:, :5]]], [[long]]]
    vocoder = VocoderGraphs(NETS[kind], PLAIN_KERNELS, records=False)
    compare(kind, together(vocoder, schedules), schedules)


@BOTH
def test_more_streams_than_slots_go_on(kind):
    mel = MELS[kind].repeat(1, 3)
    schedules = [[[piece] for piece in cut(mel[:, row:], (30, 30, 30))] for row in range(5)]
    vocoder = VocoderGraphs(NETS[kind], PLAIN_KERNELS, slots=2, records=False)
    streams = [vocoder.open(seed) for seed in range(5)]
    outputs = [[] for _ in schedules]
    for call in range(3):
        for rows in ((4, 0), (1,), (3, 2)):
            jobs = [VocoderJob(streams[row], tuple(schedules[row][call]), is_final=call == 2) for row in rows]
            for row, samples in zip(rows, vocoder.decode(jobs), strict=True):
                outputs[row].append(samples)
    compare(kind, outputs, schedules)
    assert vocoder.num_slots_used == 0


@BOTH
def test_long_utterances_fit_into_recorded_sizes(kind):
    """A causal one is cut; a symmetric one must not be, since cuts are audible."""
    rows = VocoderGraphs(NETS[kind], PLAIN_KERNELS, records=False)._rows
    vocoder = VocoderGraphs(NETS[kind], PLAIN_KERNELS, records=False)
    catalogue = set(vocoder.catalogue())
    for frames in (600, 3000):
        job = VocoderJob(vocoder.open(0), (torch.zeros(80, frames),), is_final=True)
        pieces = rows.pieces_of(job)
        assert sum(piece.shape[1] for piece in pieces) == frames
        assert len(pieces) == (1 if kind == "symmetric" else -(-frames // 505))
        for piece in pieces:
            assert (1, rows.ladder.length_for(piece.shape[1])) in catalogue


def test_an_abandoned_stream_gives_its_slot_back_at_once():
    vocoder = VocoderGraphs(NETS["symmetric"], PLAIN_KERNELS, records=False)
    stream = vocoder.open(1)
    vocoder.decode([VocoderJob(stream, (MELS["symmetric"][:, :30],), is_final=False)])
    assert vocoder.num_slots_used == 1
    stream.close()
    stream.close()
    assert vocoder.num_slots_used == 0
    with pytest.raises(EngineFailure):
        vocoder.decode([VocoderJob(stream, (MELS["symmetric"][:, :30],), is_final=True)])


def test_a_call_that_fails_before_it_began_changes_nothing(monkeypatch):
    vocoder = VocoderGraphs(NETS["symmetric"], PLAIN_KERNELS, records=False)
    first, second = vocoder.open(0), vocoder.open(1)
    mel = MELS["symmetric"]
    jobs = [VocoderJob(first, (mel[:, :4],), is_final=False), VocoderJob(second, (mel[:, :30],), is_final=False)]
    with monkeypatch.context() as broken:
        broken.setattr(vocoder._rows, "step", None)
        with pytest.raises(TypeError):
            vocoder.decode(jobs)
    assert first.num_pending == 0


@BOTH
def test_compiling_changes_no_stream(kind):
    mel = MELS[kind].repeat(1, 6)
    schedule = [[piece] for piece in cut(mel, (44, 50))]
    vocoder = VocoderGraphs(NETS[kind], PLAIN_KERNELS, records=False)
    stream = vocoder.open(0)
    first = vocoder.decode([VocoderJob(stream, tuple(schedule[0]), is_final=False)])[0]
    vocoder.compile(2)
    last = vocoder.decode([VocoderJob(stream, tuple(schedule[1]), is_final=True)])[0]
    compare(kind, [[first, last]], [schedule])


class Replay:
    """In place of a CUDA graph: computes again, between the same tensors."""

    def __init__(self, compute, *_):
        self.replay = compute
        compute()


@pytest.fixture
def no_gpu(monkeypatch):
    """What recording asks of a GPU, without one."""
    for name in ("empty_cache", "reset_peak_memory_stats", "graph_pool_handle", "Stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: object())
    for name in ("memory_reserved", "memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: SimpleNamespace(synchronize=lambda: None))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(vocoder_graph, "record_graph", Replay)


@BOTH
def test_recorded_calls_work_between_tensors_that_stay(kind, no_gpu, monkeypatch):
    vocoder = VocoderGraphs(NETS[kind], PLAIN_KERNELS)
    monkeypatch.setattr(vocoder, "catalogue", lambda *_: [(4, 64), (1, 64), (1, 32)])
    vocoder.capture(4)
    mel = MELS[kind].repeat(1, 6)
    schedules = [
        [[piece] for piece in cut(mel[:, 5 * row :], sizes)] for row, sizes in enumerate(((44, 50, 7), (20, 50)))
    ]
    schedules.append([[mel[:, :150]]])  # of no recorded size
    compare(kind, together(vocoder, schedules), schedules)
    assert vocoder.num_graphs == 3


@BOTH
def test_without_memory_for_more_recordings_calls_are_computed(kind, no_gpu, monkeypatch, caplog):
    def no_memory(compute, *_):
        if vocoder.num_graphs == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Replay(compute)

    vocoder = VocoderGraphs(NETS[kind], PLAIN_KERNELS)
    monkeypatch.setattr(vocoder_graph, "record_graph", no_memory)
    monkeypatch.setattr(vocoder, "catalogue", lambda *_: [(1, 128), (1, 64), (1, 32)])
    vocoder.capture()
    assert vocoder.num_graphs == 1
    assert "no more vocoder calls are recorded" in caplog.text
    schedule = [[piece] for piece in cut(MELS[kind].repeat(1, 6), (44, 50, 12))]
    compare(kind, together(vocoder, [schedule]), [schedule])


@pytest.mark.gpu
@BOTH
@pytest.mark.parametrize(
    ("dtype", "may_round", "most_error", "most_apart"),
    [
        (torch.float32, False, 0.005, 0.002),
        (torch.float32, True, 0.05, 0.03),
        (torch.float16, True, 0.05, 0.03),
        (torch.bfloat16, True, 0.2, 0.2),
    ],
)
def test_recorded_calls_agree_with_the_cpu(kind, dtype, may_round, most_error, most_apart):
    """most_apart: of a sample, alone and in a crowd, whose sums are added in another order."""
    from light_tts.models.nets.hift_packed import triton_kernels

    mel = MELS[kind].repeat(1, 6)
    sizes = [(44, 50, 50, 7), (20, 50, 50, 50), (44, 100), (130,)]
    schedules = [[[piece] for piece in cut(mel[:, 5 * row :], row_sizes)] for row, row_sizes in enumerate(sizes)]
    with tf32(may_round):
        vocoder = VocoderGraphs(load(kind, "cuda"), triton_kernels(), dtype=dtype)
        vocoder.capture(4)
        found = together(vocoder, schedules)
        alone = together(vocoder, schedules[:1])
    assert vocoder.num_graphs == len(vocoder.catalogue(4)), "all of it ahead, and nothing in service"
    for seed, (mine, schedule) in enumerate(zip(found, schedules, strict=True)):
        expected = torch.cat(plain(kind, schedule, seed))
        mine = torch.cat(mine)
        assert mine.shape == expected.shape
        error = (mine - expected).norm() / expected.norm()
        assert error < most_error, (seed, error)
    torch.testing.assert_close(torch.cat(alone[0]), torch.cat(found[0]), atol=most_apart, rtol=0)
