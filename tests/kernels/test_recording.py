"""Recording graphs beside whatever else a process does."""

import gc
import weakref

import pytest
import torch

from light_tts.kernels.recording import garbage_left_alone, record_graph


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self, held=None):
        self.held, self.itself = held, self


def collect_by_itself():
    """Make the collector's own counters ask for a full collection, were it allowed."""
    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        return len([[number] for number in range(1000)])
    finally:
        gc.set_threshold(*thresholds)


@pytest.mark.parametrize("is_enabled", [True, False])
def test_garbage_is_left_alone_and_the_collector_then_as_it_was(is_enabled):
    was_enabled = gc.isenabled()
    (gc.enable if is_enabled else gc.disable)()
    try:
        with garbage_left_alone():
            garbage = weakref.ref(Cycle())
            collect_by_itself()
            assert garbage() is not None
        assert gc.isenabled() == is_enabled
        with pytest.raises(ValueError, match="broken"), garbage_left_alone():
            raise ValueError("broken")
        assert gc.isenabled() == is_enabled
        collect_by_itself()
        assert (garbage() is None) == is_enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


@pytest.fixture
def on_gpu():
    """A stream, memory, and a number to count on, whose kernel has run once."""
    total = torch.zeros(1, device="cuda")
    total.add_(1.0)
    total.zero_()
    stream, memory = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
    anchor = record_graph(lambda: total.add_(1.0), memory, stream)
    yield stream, memory, total
    del anchor  # memory that no recording uses cannot be used again


@pytest.mark.gpu
def test_an_old_graph_in_the_garbage_does_not_spoil_a_recording(on_gpu):
    stream, memory, total = on_gpu
    Cycle(record_graph(lambda: total.add_(1.0), memory, stream))

    def compute():
        total.add_(1.0)
        collect_by_itself()
        total.add_(1.0)

    record_graph(compute, memory, stream).replay()
    assert total.item() == 2.0


@pytest.mark.gpu
def test_what_breaks_a_recording_is_what_is_raised(on_gpu):
    stream, memory, total = on_gpu

    def broken():
        total.add_(1.0)
        raise ValueError("this kernel does not compile")

    with pytest.raises(ValueError, match="does not compile"):
        record_graph(broken, memory, stream)
    record_graph(lambda: total.add_(1.0), memory, stream).replay()
    assert total.item() == 1.0
