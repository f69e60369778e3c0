"""Calls over paged states give what the plain ones give, whatever the hops, the crowd and the room for pages."""

from __future__ import annotations

import gc
import itertools
import random
from collections.abc import Callable
from contextlib import closing
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.acoustic import flow_graphs
from light_tts.acoustic.flow import FlowDecoder, FlowHop
from light_tts.acoustic.flow_call import FlowCall
from light_tts.acoustic.flow_graphs import PagedRunner, RunnerSearch
from light_tts.acoustic.flow_runner import PlainRunner
from light_tts.acoustic.flow_sizes import CallSize
from light_tts.events import StartProgress
from light_tts.kernels.flow_kernels import plain_kernels
from tests.acoustic.tiny_flow import (
    PLENTY,
    STEPS,
    assert_close,
    grid_hops,
    layouts,
    new_decoder,
    random_prompt,
    random_tokens,
    tiny_flow,
    whole,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def paged(
    layout: str, num_pages: int = 60, steps: int = STEPS, *, pads: bool = False, int8: bool = False
) -> PagedRunner:
    """pads: with a few sizes that a GPU would have recorded; here they are computed."""
    make = partial(
        PagedRunner, tiny_flow(layout), steps=steps, kernels=plain_kernels(), most_graphs=0, int8_states=int8
    )
    runner = make(cache_bytes=num_pages * make(cache_bytes=0).pool.page_bytes)
    for rows, chunks in itertools.product((1, 3), (1, 3, 6)) if pads else ():
        size = runner.size_for(rows, chunks, 9)
        runner._recorded[size] = runner.new_call(size)
        runner._table.add([size])
    return runner


@layouts
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1 << 30), num_pages=st.sampled_from([0, 3, 9, 60]), pads=st.booleans())
def test_paged_hops_in_a_crowd_join_to_the_whole(layout: str, seed: int, num_pages: int, pads: bool) -> None:
    """Also through the padding of recorded sizes, which share their inputs."""
    chance = random.Random(seed)
    runner = paged(layout, num_pages, pads=pads)
    page_bytes = runner.pool.page_bytes
    decoder = new_decoder(layout, chance.choice([0, 4, 100]) * page_bytes, PLENTY, runner)
    queues, expected, streams = [], [], []
    for number in range(chance.randint(1, 4)):
        prompt = random_prompt(chance.randint(0, 17), seed=chance.randint(0, 1))
        tokens = random_tokens(chance.randint(1, 30), seed=number)
        full_mask = chance.random() < 0.2
        stream = decoder.open(prompt, steps=STEPS)
        chunks = [chance.randint(1, 3) for _ in range(chance.randint(0, 4))]
        queues.append(
            [FlowHop(stream, tokens, 0, True, full_mask=True)] if full_mask else grid_hops(stream, tokens, chunks)
        )
        expected.append(whole(layout, prompt, tokens, full_mask=full_mask))
        streams.append(stream)
    pieces: list[list[torch.Tensor]] = [[] for _ in queues]
    while any(queues):
        turn = [n for n, queue in enumerate(queues) if queue and chance.random() < 0.8]
        for number, mel in zip(turn, decoder.decode([queues[n].pop(0) for n in turn]), strict=True):
            pieces[number].append(mel)
    for parts, mel in zip(pieces, expected, strict=True):
        assert_close(torch.cat(parts, dim=1), mel)
    assert decoder.stream_budget.used_bytes == 0
    in_prompts = decoder.prompts.used_bytes // page_bytes
    for stream in streams:
        stream.close()
    gc.collect()
    assert runner.pool.num_free == num_pages - in_prompts, "what nobody holds is free"


@layouts
def test_in_int8_what_was_kept_and_what_is_computed_again_are_the_same(layout: str) -> None:
    prompt, tokens = random_prompt(12), random_tokens(30, seed=3)
    mels: list[torch.Tensor] = []
    kept: list[int] = []
    for num_pages in (60, 3, 0):
        runner = paged(layout, num_pages, int8=True)
        decoder = new_decoder(layout, PLENTY, PLENTY, runner)
        with closing(decoder.open(prompt, steps=STEPS)) as stream:
            parts = []
            for hop in grid_hops(stream, tokens, [1, 2, 1]):
                parts.append(decoder.decode([hop])[0])
                kept.append(stream.kept_tokens)
            mels.append(torch.cat(parts, dim=1))
    assert kept[1] > kept[5] > kept[9] == 0
    exact = whole(layout, prompt, tokens)
    rounding = (mels[0] - exact).norm().item()
    assert 0.0 < rounding < 0.02 * exact.norm().item()
    # A number that lies half-way between two codes becomes either, as other sums before it are rounded.
    assert (mels[1] - mels[0]).norm().item() < 0.3 * rounding
    assert (mels[2] - mels[0]).norm().item() < 0.3 * rounding


@layouts
def test_a_second_stream_of_a_voice_computes_its_own_tokens_only(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = paged(layout)
    computed = []
    run = runner.run
    monkeypatch.setattr(
        runner, "run", lambda rows, **options: computed.append([row.num_tokens for row in rows]) or run(rows, **options)
    )
    decoder = new_decoder(layout, runner=runner)
    prompt, tokens = random_prompt(10), random_tokens(33, seed=5)
    first, second = (decoder.open(prompt, steps=STEPS) for _ in range(2))
    for hop in grid_hops(first, tokens, [1, 2]):
        decoder.decode([hop])
    assert computed == [[15], [10], [18]]
    computed.clear()
    decoder.decode([grid_hops(second, tokens, [2])[0]])
    assert computed == [[5 + 10]]


@layouts
def test_more_steps_than_a_page_has_room_for_keep_nothing(layout: str) -> None:
    runner = paged(layout, steps=2)
    decoder = new_decoder(layout, runner=runner)
    prompt, tokens = random_prompt(12), random_tokens(30, seed=7)
    for steps in (1, 2, 3):
        stream = decoder.open(prompt, steps=steps)
        hops = grid_hops(stream, tokens, [1, 1])
        first = decoder.decode([hops[0]])[0]
        assert (stream.kept_tokens > 0) == (steps <= 2)
        mel = torch.cat([first, *(decoder.decode([hop])[0] for hop in hops[1:])], dim=1)
        assert_close(mel, whole(layout, prompt, tokens, steps=steps))


def recording(monkeypatch: pytest.MonkeyPatch, most: int, fails: tuple[int, ...] = ()) -> tuple[PagedRunner, list[int]]:
    """A runner whose recordings are only noted, in the order in which they are tried; some of them fail."""
    runner, tried = paged("cosyvoice3_tiny", 0), []

    def record(size: CallSize) -> None:
        tried.append(size.chunks)
        if size.chunks in fails:
            raise torch.OutOfMemoryError("CUDA out of memory")
        runner._recorded[size] = runner.new_call(size)
        runner._table.add([size])

    monkeypatch.setattr(runner, "_record", record)
    monkeypatch.setattr(runner, "_most_graphs", most)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    return runner, tried


def test_the_largest_size_is_recorded_first_then_the_most_useful_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, tried = recording(monkeypatch, most=4)
    sizes = [runner.size_for(1, chunks, 0) for chunks in (2, 1, 7, 3, 9)]
    runner.record(sizes[:1])
    runner.record(sizes)
    assert tried == [2, 7, 1, 3], "9 is one too many"
    assert runner.num_recorded == 4
    runner.record(sizes)
    assert runner.num_recorded == 4


def test_kernels_of_each_kind_of_call_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    (runner, _), began, waited = recording(monkeypatch, most=9), [], []

    class Compiling:
        def wait(self, progress: StartProgress) -> None:
            waited.append(progress)

    def begin(what: str, compute: Callable[[], object]) -> Compiling:
        began.append(what)
        return Compiling()

    monkeypatch.setattr(flow_graphs, "begin_compiling", begin)
    sizes = [runner.size_for(1, chunks, 0) for chunks in (3, 8, 9)]
    runner.begin_compiling(sizes[:2])
    runner.begin_compiling(sizes[:1])
    assert (began, waited) == (["flow"], [])
    runner.record(sizes)
    assert (began, len(waited)) == (["flow"], 1), "large calls of like sizes have the same kernels"
    runner.record([runner.size_for(1, 2, 0)])
    assert (began, len(waited)) == (["flow"] * 2, 2)


def test_recording_ends_with_its_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    runner, tried = recording(monkeypatch, most=9)
    runner.record([runner.size_for(1, chunks, 0) for chunks in (1, 2, 3)], budget_s=0.0)
    assert tried == [3]
    assert "2 sizes of flow calls are not recorded" in caplog.text


def test_sizes_that_cannot_be_recorded_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runner, tried = recording(monkeypatch, most=9, fails=(2, 4, 5, 9))
    sizes = [runner.size_for(1, chunks, 0) for chunks in range(1, 10)]
    with pytest.raises(torch.OutOfMemoryError):
        runner.record(sizes)
    runner.record(sizes[:1])
    tried.clear()
    runner.record(sizes)
    assert tried == [9, 2, 3, 4], "three failures are enough"
    assert runner.num_recorded == 2
    assert "out of memory" in caplog.text


def test_pages_that_run_out_are_refused_and_come_back() -> None:
    pool = paged("cosyvoice3_tiny", 3).pool
    held = pool.allocate(2 * pool.chunk_tokens)
    assert held is not None
    assert held.num_bytes == 2 * pool.page_bytes
    assert pool.allocate(2 * pool.chunk_tokens) is None
    assert pool.num_free == 1
    del held
    gc.collect()
    assert pool.num_free == 3


def test_without_a_gpu_or_graphs_the_plain_runner_serves() -> None:
    net = tiny_flow("cosyvoice3_tiny")
    for most_graphs in (0, 8):
        runner = RunnerSearch(net, cache_bytes=PLENTY, steps=STEPS, most_graphs=most_graphs).result()
        assert isinstance(runner, PlainRunner)


@layouts
def test_rows_that_only_fill_a_size_keep_nothing(layout: str) -> None:
    """Recording computes such rows while pages are in use by streams."""
    net, pool = tiny_flow(layout), paged(layout, 2).pool
    levels = [pool.tokens, pool.frames, pool.estimator]
    before = [tensor[: pool.num_pages].clone() for level in levels for tensor in level[:2]]
    call = FlowCall(net, pool, CallSize(2, 1, 2), plain_kernels())
    assert call.run([], steps=STEPS, is_chunked=True).isfinite().all()
    after = [tensor[: pool.num_pages] for level in levels for tensor in level[:2]]
    assert all(torch.equal(old.nan_to_num(7.0), new.nan_to_num(7.0)) for old, new in zip(before, after, strict=True))


@layouts
@pytest.mark.parametrize("steps", [1, STEPS - 1, STEPS + 3])
def test_any_number_of_steps_runs_in_the_slots_of_a_call(layout: str, steps: int) -> None:
    """A call has slots for `STEPS` steps; after one of another number it serves the usual one as before."""
    net, runner = tiny_flow(layout), paged(layout)
    prompt, codes = random_prompt(30), random_tokens(40, 1)

    def speak(decoder: FlowDecoder, count: int) -> torch.Tensor:
        stream = decoder.open(prompt, steps=count, stream=False)
        [mel] = decoder.decode([FlowHop(stream, codes, 0, is_final=True)])
        stream.close()
        return mel

    plain = FlowDecoder(net, prompt_cache_bytes=0, stream_cache_bytes=0)
    in_slots = FlowDecoder(net, prompt_cache_bytes=0, stream_cache_bytes=0, runner=runner)
    for count in (STEPS, steps, STEPS):
        assert_close(speak(in_slots, count), speak(plain, count))
