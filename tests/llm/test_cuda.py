"""The same engine on a GPU: same random numbers, same decisions, states within float32 rounding."""

import json

import pytest
import torch
from safetensors.torch import load_file

from light_tts.llm.random import run_key, uniforms
from light_tts.verify.llm_golden import Forward
from tests.llm.tiny_llm import GOLDEN, MODELS, RecordingSink, load_tiny, make_engine, prompt_of, run_dry

pytestmark = pytest.mark.gpu


@pytest.fixture(params=MODELS)
def pair(request):
    """The same tiny model on both devices."""
    return load_tiny(request.param), load_tiny(request.param, device="cuda"), request.param


def test_uniforms_are_the_same_on_both_devices():
    keys = torch.tensor([run_key(seed, seed % 3) for seed in range(1000)])
    steps = torch.arange(1000)
    assert torch.equal(uniforms(keys.cuda(), steps.cuda()).cpu(), uniforms(keys, steps))


def test_logits_agree_with_the_golden_ones(pair):
    cpu, gpu, name = pair
    stored = load_file(GOLDEN / name / "prefill.safetensors")["zero_shot.logits"]
    feed = json.loads((GOLDEN / name / "prefill.json").read_text())["zero_shot"]
    ids = cpu.ids
    speech = [ids.speech_row0 + code for code in feed["prompt_speech"]]
    rows = [ids.sos_row, *feed["prompt_text"], *feed["text"], ids.task_row, *speech]
    assert torch.allclose(Forward(gpu).logits(rows).cpu(), stored, atol=5e-4, rtol=0)


def test_a_crowd_on_the_gpu_says_what_the_cpu_says(pair):
    cpu, gpu, _ = pair
    results = []
    for lm in (cpu, gpu):
        engine = make_engine(lm)
        sinks = [RecordingSink() for _ in range(12)]
        for index, sink in enumerate(sinks):
            engine.submit(prompt_of(lm, [index, 2, 3, 4], [5] * 17, [7] * (index * 3)), sink, seed=index)
        for index in range(4):
            sinks.append(RecordingSink())
            handle = engine.open_text_run(prompt_of(lm, [], [9] * 6, [8] * 20), sinks[-1], seed=index)
            handle.append(list(range(11)))
            handle.finish()
        run_dry(engine)
        results.append([sink.outcome for sink in sinks])
    assert results[0] == results[1]


def test_half_precision_runs_to_its_end(pair):
    lm = load_tiny(pair[2], device="cuda", dtype=torch.bfloat16)
    engine, sink = make_engine(lm), RecordingSink()
    engine.submit(prompt_of(lm, [1, 2, 3], [4] * 20, [5] * 30), sink, seed=0)
    run_dry(engine)
    assert 6 <= len(sink.codes) <= 60
