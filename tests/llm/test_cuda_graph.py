"""Recorded decoding steps: padding, packing and the ladder on any machine; capture and replay on a GPU."""

import random
import threading

import pytest
import torch

from light_tts.llm.cuda_graph import batch_ladder, why_not
from light_tts.llm.decode_inputs import MAX_TOP_K, DecodeInputs
from light_tts.llm.model_runner import ModelRunner
from light_tts.llm.padded_decode import PLAIN_KERNELS, PaddedDecode
from light_tts.llm.sampler import INVALID_TOKEN
from light_tts.types import SamplingOptions
from tests.llm.tiny_llm import MODELS, RecordingSink, load_tiny, make_engine, prompt_of, run_dry


class PaddedPlain:
    """Stands where the graphs stand, on any device: the same padded step, computed instead of replayed."""

    def __init__(self, runner, most_rows=64, most_tokens=1024):
        cache, sampler, device = runner.cache, runner._sampler, runner.lm.device
        self.sizes = batch_ladder(most_rows)
        self.inputs = DecodeInputs(
            most_rows=most_rows,
            most_pages=most_tokens // cache.block_tokens,
            block_tokens=cache.block_tokens,
            win_size=sampler.win_size,
            dump_slot=cache.dump_slot,
            zero_page=cache.zero_page,
            device=device,
        )
        self.decode = PaddedDecode(runner.lm, cache, sampler, PLAIN_KERNELS)
        self.num_steps = 0

    def can_run(self, chunks):
        return all(chunk.num_rows == 1 and chunk.samples for chunk in chunks)

    def run(self, chunks):
        self.num_steps += 1
        size = next(size for size in self.sizes if size >= len(chunks))
        self.inputs.fill(chunks, size)
        return self.decode.sample(self.inputs.views(size))[: len(chunks)].tolist()


def crowd(lm, engine):
    """Runs of every kind, some of which come late, leave early or lose their pages; what each said."""
    sinks = [RecordingSink() for _ in range(14)]
    picks = random.Random(5)
    for index, sink in enumerate(sinks[:12]):
        options = [SamplingOptions(), SamplingOptions(top_k=3, top_p=0.5), SamplingOptions(temperature=1.5)]
        options += [SamplingOptions(greedy=True)]
        prompt = prompt_of(lm, [index, 2, 3, 4], [5] * picks.randrange(17), [7] * (index * 3))
        handle = engine.submit(prompt, sink, seed=index, sampling=options[index % 4])
        if index == 7:
            engine.step()
            handle.abort()
        for _ in range(picks.randrange(6)):
            engine.step()
    for sink in sinks[12:]:
        handle = engine.open_text_run(prompt_of(lm, [], [9] * 6, [8] * 20), sink, seed=3)
        handle.append(list(range(11)))
        engine.step()
        handle.finish()
    run_dry(engine)
    return [sink.outcome for sink in sinks]


def test_the_ladder_ends_at_its_most_and_never_doubles_the_rows():
    for most in (1, 2, 5, 8, 31, 64, 100, 128, 256, 1000):
        sizes = batch_ladder(most)
        assert sizes == sorted(set(sizes))
        assert sizes[-1] == most
        for count in range(1, most + 1):
            size = next(size for size in sizes if size >= count)
            assert size < 2 * count
            assert count <= 16 or size <= 1.5 * count
    assert batch_ladder(64) == [1, 2, 4, 8, 16, 24, 32, 48, 64]
    assert len(batch_ladder(256)) <= 20


@pytest.mark.parametrize("settings", [{}, {"block_tokens": 4, "max_total_tokens": 400, "max_request_tokens": 200}])
def test_a_padded_step_draws_what_the_packed_one_draws(lm, settings):
    """With few pages in all, sequences lose theirs and get others."""
    packed = crowd(lm, make_engine(lm, **settings))
    engine = make_engine(lm, **settings)
    engine._runner._graphs = PaddedPlain(engine._runner)
    assert crowd(lm, engine) == packed
    assert engine._runner._graphs.num_steps > 20
    if settings:
        assert engine.stats().preemptions > 0


def test_a_sick_sequence_does_not_reach_the_padding_of_its_neighbours(lm):
    """Shorter lists of pages are filled up, and never with a page of somebody else."""
    from tests.llm.test_model_runner import Chunk, sequence_of

    runner = ModelRunner(lm, num_blocks=32, block_tokens=4, win_size=10, tau_r=0.1)
    sick, well = sequence_of(lm, [9] * 8, blocks=list(range(8))), sequence_of(lm, [8], list(range(8, 12)), num_prompt=2)
    runner.run([Chunk(s, 0, s.num_rows - 1) for s in (sick, well)])
    runner.cache._by_page[:, 0] = float("nan")
    last = {s: Chunk(s, s.num_rows - 1, 1) for s in (sick, well)}
    tokens = {item.sequence: item.token for item in runner.run(list(last.values()))}
    assert tokens[sick] == INVALID_TOKEN
    assert tokens[well] != INVALID_TOKEN


def test_padding_leaves_the_pages_of_sequences_alone(lm):
    from tests.llm.test_model_runner import Chunk, sequence_of

    runner = ModelRunner(lm, num_blocks=32, block_tokens=4, win_size=10, tau_r=0.1)
    sequence = sequence_of(lm, [9], blocks=[0, 1, 2, 3])
    runner.run([Chunk(sequence, 0, sequence.num_rows - 1)])
    before = runner.cache._by_page[:, :32].clone()
    padded = PaddedPlain(runner)
    with torch.inference_mode():
        padded.inputs.fill([Chunk(sequence, sequence.num_rows - 1, 1)], 16)
        padded.decode.sample(padded.inputs.views(16))
    changed = (runner.cache._by_page[:, :32] != before).any(dim=-1)
    assert changed.any(dim=0).nonzero().tolist() == [[(sequence.num_rows - 1) // 4]]
    assert runner.cache._by_page[:, 33].any()


def test_a_machine_without_a_gpu_records_nothing(lm):
    assert why_not(torch.device("cpu"), 64)
    engine = make_engine(lm)
    engine.capture()
    assert engine._runner._graphs is None


@pytest.fixture(params=MODELS)
def on_gpu(request):
    return load_tiny(request.param, device="cuda")


def recorded(lm, **settings):
    engine = make_engine(lm, **settings)
    engine.capture()
    assert engine._runner._graphs is not None
    return engine


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"block_tokens": 4, "max_total_tokens": 400, "max_request_tokens": 200},
        {"graph_max_batch_size": 5},
        {"prefill_budget_tokens": 16},
    ],
    ids=["plain", "few pages", "several replays", "mixed"],
)
def test_replayed_steps_draw_what_eager_ones_draw(on_gpu, settings):
    eager = make_engine(on_gpu, disable_cudagraph=True, **settings)
    eager.capture()
    assert eager._runner._graphs is None
    assert crowd(on_gpu, recorded(on_gpu, **settings)) == crowd(on_gpu, eager)


@pytest.mark.gpu
def test_alone_and_in_a_crowd_a_run_says_the_same(on_gpu):
    engine = recorded(on_gpu)
    prompts = [prompt_of(on_gpu, [index, 2, 3], [5] * index, [7] * (index * 2)) for index in range(20)]
    together = [RecordingSink() for _ in prompts]
    for seed, (prompt, sink) in enumerate(zip(prompts, together, strict=True)):
        engine.submit(prompt, sink, seed=seed)
    run_dry(engine)
    for seed, (prompt, sink) in enumerate(zip(prompts, together, strict=True)):
        alone = RecordingSink()
        engine.submit(prompt, alone, seed=seed)
        run_dry(engine)
        assert alone.outcome == sink.outcome


@pytest.mark.gpu
def test_a_request_for_more_candidates_than_recorded_runs_eagerly(on_gpu):
    results = []
    for engine in (recorded(on_gpu), make_engine(on_gpu)):
        sink = RecordingSink()
        options = SamplingOptions(top_k=MAX_TOP_K + 1, top_p=1.0)
        engine.submit(prompt_of(on_gpu, [1, 2, 3]), sink, seed=1, sampling=options)
        run_dry(engine)
        results.append(sink.outcome)
    assert results[0] == results[1]


@pytest.mark.gpu
def test_a_sick_sequence_ends_alone_in_a_replayed_step(on_gpu):
    engine = recorded(on_gpu)
    sinks = [RecordingSink(), RecordingSink()]
    for seed, sink in enumerate(sinks):
        engine.submit(prompt_of(on_gpu, [seed, 2, 3, 4]), sink, seed=seed)
    engine.step()
    first = next(run for run in engine._scheduler.running if run.arrival == 0)
    engine._runner.cache._by_page[:, first.blocks] = float("nan")
    torch.cuda.synchronize()
    run_dry(engine)
    assert sinks[0].error is not None
    assert sinks[1].reason is not None
    assert torch.isfinite(engine._runner.cache._by_page[:, :-1]).all()


@pytest.mark.gpu
def test_recording_and_replaying_beside_a_busy_thread(on_gpu):
    """Another thread computes on a stream of its own all the while, allocating as it goes.

    It draws no random numbers: torch's generator of the device belongs to a recording while it lasts.
    """
    expected = crowd(on_gpu, make_engine(on_gpu))
    stop, failures = threading.Event(), []

    def work():
        try:
            with torch.cuda.stream(torch.cuda.Stream()), torch.inference_mode():
                size = 64
                while not stop.is_set():
                    size = size % 2048 + 64
                    matrix = torch.ones(size, size, device="cuda")
                    (matrix @ matrix).sum().item()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert crowd(on_gpu, recorded(on_gpu)) == expected
    finally:
        stop.set()
        thread.join()
    assert failures == []
