from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from light_tts.acoustic import flow_script
from light_tts.acoustic.flow import FlowDecoder, FlowHop
from light_tts.acoustic.flow_runner import PlainRunner
from light_tts.acoustic.flow_script import ScriptedEstimator, scripted
from light_tts.models.nets.context import PlainContext
from light_tts.models.nets.flow_net import FlowNet
from tests.acoustic.tiny_flow import PLENTY, STEPS, grid_hops, layouts, random_prompt, random_tokens, tiny_flow


def decoder_of(net: FlowNet) -> FlowDecoder:
    return FlowDecoder(net, prompt_cache_bytes=PLENTY, stream_cache_bytes=PLENTY, runner=PlainRunner(net))


def mels(net: FlowNet) -> list[torch.Tensor]:
    """Of a stream whose prompt is new, two uneven ones that find it kept, in one call, and one under the full mask."""
    decoder, prompt = decoder_of(net), random_prompt(11)
    queues = []
    for number, chunks in enumerate(([2, 1], [1, 3])):
        queues.append(grid_hops(decoder.open(prompt, steps=STEPS), random_tokens(31, seed=number), chunks))
    first, others = queues
    offline = FlowHop(decoder.open(random_prompt(7), steps=STEPS), random_tokens(9, seed=2), 0, True, full_mask=True)
    results = [decoder.decode([first[0]])]
    results += [decoder.decode([*pair]) for pair in zip(first[1:], others, strict=False)]
    return [mel for call in [*results, decoder.decode([offline])] for mel in call]


@layouts
def test_the_graph_computes_what_the_modules_compute(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = tiny_flow(layout)
    by_graph = mels(net)
    monkeypatch.setattr(flow_script.ScriptedEstimator, "__call__", lambda _, *args: net.estimator(*args))
    for actual, expected in zip(by_graph, mels(net), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@layouts
def test_the_modules_run_once_for_all_sizes(layout: str) -> None:
    net, calls = tiny_flow.__wrapped__(layout), []
    net.estimator.register_forward_hook(lambda *_: calls.append(1))
    mels(net)
    assert len(calls) == 1  # while the graph was made
    mels(net)
    assert len(calls) == 1


@layouts
def test_other_contexts_are_served_by_the_modules(layout: str) -> None:
    net = tiny_flow(layout)
    x, static, time = torch.randn(2, 6, 80), torch.randn(2, 6, 240), net.time_table(STEPS)[:1]
    context = PlainContext([6, 6], chunk=net.chunk_frames)
    with torch.inference_mode():
        actual = ScriptedEstimator(net)(x, static, time, context)
        torch.testing.assert_close(actual, net.estimator(x, static, time, context), rtol=0, atol=0)


def test_there_is_no_graph_on_a_gpu_nor_where_python_is_too_new(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = SimpleNamespace(device=torch.device("cuda"), estimator=object())
    assert scripted(on_gpu) is on_gpu.estimator
    net = tiny_flow("cosyvoice2_tiny")
    assert scripted(net) is not net.estimator
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    assert scripted(net) is net.estimator  # TorchScript is not supported there
