"""Graphs of computations: made once, for all sizes, by whoever calls first."""

import threading

import torch

from light_tts.models.nets.script import ScriptGraph, can_script


def test_a_graph_is_made_once_and_takes_any_size():
    computed = []

    def compute(x, parts):
        computed.append(x.shape)
        return x.view(x.shape[0], -1) * 2, torch.cat(parts)

    graph = ScriptGraph(compute, lambda x, parts: (x[:1, :2], parts))
    for rows, columns in ((3, 4), (2, 7)):
        x, parts = torch.randn(rows, columns), (torch.zeros(1), torch.ones(columns))
        doubled, joined = graph(x, parts)
        assert torch.equal(doubled, 2 * x)
        assert torch.equal(joined, torch.cat(parts))
    assert computed == [(1, 2)]


def test_threads_that_call_first_at_the_same_time_share_a_graph():
    computed, together = [], threading.Barrier(4)
    results = []

    def compute(x):
        computed.append(1)
        return x + 1

    graph = ScriptGraph(compute, lambda x: (x,))

    def call():
        together.wait()
        results.append(graph(torch.zeros(2)))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(computed) == 1
    assert len(results) == 4
    assert all(torch.equal(result, torch.ones(2)) for result in results)


def test_a_gpu_has_graphs_of_its_own():
    assert can_script(torch.device("cpu"))
    assert not can_script(torch.device("cuda"))
