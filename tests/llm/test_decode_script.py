"""Decoding steps as a graph: the same states as without one, for any batch, and no graph where it cannot be."""

import pytest
import torch

from light_tts.llm import decode_script, model_runner
from light_tts.llm.decode_script import ScriptedDecode, can_script
from tests.llm.tiny_llm import RecordingSink, make_engine, prompt_of


def started(lm, lengths, **settings):
    """An engine whose sequences, of prompts of so many codes, have all begun to decode."""
    engine = make_engine(lm, **settings)
    for seed, length in enumerate(lengths):
        engine.submit(prompt_of(lm, [5, 9, 100, 7] * 3, [3, 1], [7] * length), RecordingSink(), seed=seed)
    while engine.stats().running < len(lengths):
        engine.step()
    return engine


@pytest.mark.parametrize("lengths", [[0], [9, 9], [0, 5, 22, 31], [3] * 7], ids=str)
@pytest.mark.parametrize("block_tokens", [16, 4])
def test_a_graph_gives_what_python_gives(lm, monkeypatch, lengths, block_tokens):
    outcomes = []
    for scripted in (True, False):
        with monkeypatch.context() as patch:
            if not scripted:
                patch.setattr(model_runner, "can_script", lambda *_: False)
            engine = started(lm, lengths, block_tokens=block_tokens)
        runner = engine._runner
        assert (runner._decode is not None) is scripted
        states = []
        compute = runner.hidden

        def hidden(chunks, *, compute=compute, states=states, **how):
            states.append(compute(chunks, **how))
            return states[-1]

        monkeypatch.setattr(runner, "hidden", hidden)
        for _ in range(12):
            engine.step()
        outcomes.append(states)
    assert len(outcomes[0]) == 12
    for graph, python in zip(*outcomes, strict=True):
        assert torch.allclose(graph, python, atol=1e-5)


def test_steps_with_prompts_do_without(lm, monkeypatch):
    calls = []
    monkeypatch.setattr(ScriptedDecode, "hidden", lambda *_: calls.append(1))
    engine = make_engine(lm)
    engine.submit(prompt_of(lm, [5, 9, 100, 7]), RecordingSink(), seed=0)
    engine.step()
    assert not calls


def test_no_graph_of_what_is_not_kept_as_it_is(lm, monkeypatch):
    assert can_script(lm, make_engine(lm)._runner.cache) is decode_script.script.can_script(lm.device)
    assert not can_script(lm, make_engine(lm, kv_cache_dtype="int8")._runner.cache)
    monkeypatch.setattr(decode_script.script, "can_script", lambda _: False)
    assert not can_script(lm, make_engine(lm)._runner.cache)
