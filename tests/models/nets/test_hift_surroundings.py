"""Left contexts of many layers in one vector: what each layer finds is what the pieces before ended with."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.kernels.hift_conv import keep_plain
from light_tts.models.nets.hift_surroundings import CarriedTails, Edges, TailLayer, TailProbe, num_tail_values

CPU = torch.device("cpu")
LAYERS = [TailLayer(2, 5, 1), TailLayer(7, 3, 2), TailLayer(1, 4, 2), TailLayer(20, 2, 6)]
TYPES = [torch.float32, torch.float16, torch.float16, torch.float32]


@given(
    pieces=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=6), padding=st.integers(0, 3)
)
@settings(max_examples=30, deadline=None)
def test_each_layer_finds_the_last_steps_of_its_stream(pieces, padding):
    """Two streams with pieces of different lengths, also shorter than a context."""
    carried = torch.zeros(2, num_tail_values(LAYERS))
    past = [torch.zeros(2, layer.width, layer.channels) for layer in LAYERS]
    for lengths in pieces:
        tails = CarriedTails(carried, torch.tensor(lengths))
        for index, (layer, dtype) in enumerate(zip(LAYERS, TYPES, strict=True)):
            x = torch.randn(2, (max(lengths) + padding) * layer.rate, layer.channels).to(dtype)
            tail = tails.tail(x, layer.width, layer.rate)
            assert tail is not None
            assert tail.before.dtype is dtype
            for part in (tail.before, tail.after):
                assert part.storage_offset() % 16 == 0
                assert part.stride(0) % 16 == 0
            torch.testing.assert_close(tail.before.float(), past[index], rtol=0, atol=0)
            keep_plain(x, tail)
            rows = [torch.cat([past[index][row], x[row, : lengths[row] * layer.rate].float()]) for row in range(2)]
            past[index] = torch.stack([row[-layer.width :] for row in rows])
        carried = tails.packed()
        assert carried.dtype is torch.float32


def test_the_probe_learns_the_layout():
    probe = TailProbe(CPU)
    assert probe.tail(torch.zeros(1, 4, 3), 0, 1) is None
    for layer in LAYERS:
        x = torch.randn(1, 9, layer.channels)
        tail = probe.tail(x, layer.width, layer.rate)
        assert tail is not None
        assert tail.before.shape == (1, layer.width, layer.channels)
        assert not tail.before.any()
        keep_plain(x, tail)
    assert probe.layers == LAYERS
    assert num_tail_values(probe.layers) == 16 + 32 + 16 + 48


def test_ends_are_computed_once_for_each_rate():
    edges = Edges(torch.tensor([3, 5]))
    ends = edges.ends(8, 1)
    assert ends is not None
    assert ends.tolist() == [25, 41]
    assert edges.ends(8, 1) is ends
    assert edges.tail(torch.zeros(2, 3, 4), 2, 8) is None
