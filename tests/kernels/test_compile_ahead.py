"""Kernels compiled ahead. Needs Triton, and instead of a GPU a driver that only names one."""

import logging
import threading

import pytest
import torch

from light_tts.acoustic.flow_graphs import PagedRunner
from light_tts.kernels import compile_ahead as module
from light_tts.kernels import compile_pool
from light_tts.kernels.compile_ahead import compile_ahead
from light_tts.kernels.compile_job import CompileJob
from light_tts.kernels.flow_kernels import triton_kernels as flow_kernels
from light_tts.llm.padded_step import PaddedStep
from light_tts.llm.padded_step import triton_kernels as step_kernels
from light_tts.llm.padded_steps import PaddedSteps
from light_tts.llm.paged_attention import PagedKVCache
from light_tts.llm.sampler import Sampler
from tests.acoustic.tiny_flow import LAYOUTS, layouts, tiny_flow
from tests.llm.tiny_llm import load_tiny, stored_as_on_a_gpu


class Told:
    def __init__(self):
        self.compiled_so_far = []

    def compiled(self, what, done, total):
        self.compiled_so_far.append((what, done, total))


def two_kernels(width=64):
    from light_tts.kernels.decoder_rows_triton import rms_norm, silu_mul

    rows = torch.zeros(3, width)
    rms_norm(rows, torch.ones(width), 1e-6)
    rms_norm(rows, torch.ones(width), 1e-6)
    silu_mul(rows)


def test_kernels_are_compiled_not_launched_and_found_by_the_launches_that_follow(compiler, monkeypatch, caplog):
    from light_tts.kernels import decoder_rows_triton

    told, hits = Told(), []
    with caplog.at_level(logging.INFO):
        compile_ahead("test", two_kernels, told)
    assert told.compiled_so_far == [("test", 1, 2), ("test", 2, 2)]
    assert "2 kernels of the test compiled" in caplog.text
    assert compiler.runtime.jit_cache_hook is None

    monkeypatch.setattr(compiler.compilation, "listener", lambda cache_hit, **_: hits.append(cache_hit))
    rows = torch.zeros(3, 64)
    decoder_rows_triton._rms_norm_kernel.run(
        rows, torch.ones(64), rows, 1e-6, WIDTH=64, BLOCK=64, num_warps=4, grid=(3,), warmup=True
    )
    assert hits == [True]


def test_other_threads_launch_as_ever(compiler):
    answers = []

    def asked():
        answers.append(compiler.runtime.jit_cache_hook(fn=None, compile=None))

    def compute():
        thread = threading.Thread(target=asked)
        thread.start()
        thread.join()

    compile_ahead("test", compute)
    assert answers == [False]


def test_a_hook_that_was_there_is_asked_and_stays(compiler, monkeypatch):
    def former(**about):
        return "former"

    monkeypatch.setattr(compiler.runtime, "jit_cache_hook", former)
    with module._hooked():
        assert compiler.runtime.jit_cache_hook(fn=None, compile=None) == "former"
    assert compiler.runtime.jit_cache_hook is former


def test_what_goes_wrong_ends_in_the_log(compiler, caplog):
    def broken():
        raise ValueError("a strange machine")

    compile_ahead("test", broken)
    assert "one after the other: ValueError: a strange machine" in caplog.text
    assert compiler.runtime.jit_cache_hook is None


def test_a_kernel_that_does_not_compile_is_counted(compiler, monkeypatch, caplog):
    import triton

    def broken(source, target, options):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(triton, "compile", broken)
    compile_ahead("test", lambda: two_kernels(128))
    assert "2 kernels of the test do not compile; one says: no such instruction" in caplog.text


def test_nothing_is_computed_where_it_cannot_be_compiled(monkeypatch):
    monkeypatch.setattr(module, "why_not", lambda: "a reason")
    compile_ahead("test", lambda: pytest.fail("was computed"))


def test_a_triton_that_breaks_does_not_break_the_start(monkeypatch, caplog):
    def broken():
        raise ImportError("libtriton.so")

    monkeypatch.setattr(module, "why_not", broken)
    compile_ahead("test", lambda: pytest.fail("was computed"))
    assert "ImportError: libtriton.so" in caplog.text


def collected(compiler, monkeypatch):
    """Where kernels that would be compiled are noted instead."""
    met = set()

    def collect(fn, key, **_):
        met.add((fn.name, key))
        return True

    monkeypatch.setattr(compiler.runtime, "jit_cache_hook", collect)
    return met


STEP_SIZES = {"win_size": 10, "most_rows": 16, "most_packed_rows": 64, "most_running": 16, "most_tokens": 32}


def tiny_steps(is_int8=False):
    """A step of a tiny language model in each version but the most cautious, which has no kernels of its own."""
    lm = stored_as_on_a_gpu(load_tiny("cosyvoice2"))
    config = lm.config
    cache = PagedKVCache(
        num_layers=config.num_layers, num_blocks=8, block_tokens=4, num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim, dtype=torch.float32, device=torch.device("cpu"), is_int8=is_int8,
    )  # fmt: skip
    sampler = Sampler(win_size=10, tau_r=0.1, head_size=lm.ids.head_size, device=torch.device("cpu"))
    return cache, [PaddedStep(lm, cache, version) for version in step_kernels(lm, sampler)[:-1]]


def test_a_brief_step_meets_all_kernels_of_a_whole_one(compiler, monkeypatch):
    met = collected(compiler, monkeypatch)
    cache, steps = tiny_steps()
    for step in steps:
        seen = {}
        for name, compute in (("brief", step.compute_briefly), ("whole", step.compute)):
            met.clear()
            with torch.inference_mode():
                PaddedSteps(cache, compute, **STEP_SIZES)
            seen[name] = set(met)
        assert seen["brief"] == seen["whole"]
        assert len(seen["whole"]) > 5


@pytest.fixture
def failures(compiler, monkeypatch):
    """What processes could not compile, while they compile: a GPU of compute capability 9.0 need not be there."""
    failed = []
    monkeypatch.setattr(compile_pool, "usable_cpus", lambda: 4)
    monkeypatch.setattr(CompileJob, "compile_here", lambda job: failed.append(job.kernel.__name__))
    with compile_pool.compile_processes():
        yield failed


@pytest.mark.slow
def test_the_kernels_of_steps_compile(failures, caplog):
    def meet_kernels():
        for is_int8 in (False, True):
            cache, steps = tiny_steps(is_int8)
            for step in steps:
                with torch.inference_mode():
                    PaddedSteps(cache, step.compute_briefly, **STEP_SIZES)

    compile_ahead("language model", meet_kernels)
    assert (failures, caplog.text) == ([], "")


@pytest.mark.slow
def test_the_kernels_of_flow_calls_compile(failures, caplog):
    def meet_kernels():
        for layout in LAYOUTS:
            net = tiny_flow(layout, 15)
            runner = PagedRunner(net, cache_bytes=1 << 24, steps=2, kernels=flow_kernels(overlaps=True), most_graphs=0)
            for rows, chunks in ((1, 1), (2, 3)):
                runner.new_call(runner.size_for(rows, chunks, 0)).compute_briefly()

    compile_ahead("flow", meet_kernels)
    assert (failures, caplog.text) == ([], "")


@layouts
def test_a_brief_flow_call_meets_all_kernels_of_a_whole_one(compiler, monkeypatch, layout):
    met = collected(compiler, monkeypatch)
    steps = 5
    runner = PagedRunner(tiny_flow(layout, 15), cache_bytes=1 << 24, steps=steps, kernels=flow_kernels(), most_graphs=0)
    call = runner.new_call(runner.size_for(2, 1, 0))
    call.compute_briefly()
    brief = set(met)
    met.clear()
    with torch.inference_mode():
        call.replay(steps)
    assert brief == met
    assert len(brief) > 5
