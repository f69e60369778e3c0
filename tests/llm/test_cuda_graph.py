"""Recorded steps: padding, packing and the ladders on any machine; capture and replay on a GPU."""

import random
import threading
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from light_tts.kernels.draw import MAX_TOP_K
from light_tts.llm import cuda_graph
from light_tts.llm.cuda_graph import GraphRecorder, why_not
from light_tts.llm.model_runner import ModelRunner
from light_tts.llm.padded_step import PaddedStep, plain_kernels
from light_tts.llm.padded_steps import PaddedSteps, batch_ladder, packed_ladder, parts_of
from light_tts.llm.sampler import INVALID_TOKEN
from light_tts.llm.step_shape import StepShape
from light_tts.types import SamplingOptions
from tests.llm.tiny_llm import MODELS, RecordingSink, load_tiny, make_engine, prompt_of, run_dry


class CountedSteps(PaddedSteps):
    """Stands where the graphs stand, on any device: the same padded steps, computed instead of replayed."""

    def __init__(self, runner, most_rows=64, most_packed_rows=128, most_tokens=1024, most_running=100, kernels=None):
        self.num_steps = {"decoding": 0, "packed": 0}
        self.num_ahead = self.num_together = 0
        step = PaddedStep(runner.lm, runner.cache, kernels or plain_kernels(runner._sampler))
        with torch.inference_mode():
            super().__init__(
                runner.cache,
                partial(self.count, step),
                win_size=runner._sampler.win_size,
                most_rows=most_rows,
                most_packed_rows=most_packed_rows,
                most_running=most_running,
                most_tokens=most_tokens,
            )

    def count(self, step, views):
        def replay():
            self.num_steps["decoding" if views.selected is None else "packed"] += 1
            step.compute(views)

        return replay

    def launch(self, plan):
        self.num_together += len(plan.ahead.sequences)
        self.num_ahead += sum(chunk.is_ahead for chunk in plan.as_chunks())
        return super().launch(plan)


# With these no decision is closer to its limit than float32 rounds differently on different devices.
FIRST_SEED = 300


def crowd(lm, engine):
    """Runs of every kind, some of which come late, leave early or lose their pages; what each said that stayed."""
    sinks = [RecordingSink() for _ in range(14)]
    picks = random.Random(5)
    for index, sink in enumerate(sinks[:12]):
        options = [SamplingOptions(), SamplingOptions(top_k=3, top_p=0.5), SamplingOptions(temperature=1.5)]
        options += [SamplingOptions(greedy=True)]
        prompt = prompt_of(lm, [index, 2, 3, 4], [5] * picks.randrange(17), [7] * (index * 3))
        handle = engine.submit(prompt, sink, seed=FIRST_SEED + index, sampling=options[index % 4])
        if index == 7:
            engine.step()
            handle.abort()
        for _ in range(picks.randrange(6)):
            engine.step()
    for sink in sinks[12:]:
        handle = engine.open_text_run(prompt_of(lm, [], [9] * 6, [8] * 20), sink, seed=FIRST_SEED + 3)
        handle.append(list(range(11)))
        engine.step()
        handle.finish()
    run_dry(engine)
    # How far the one that leaves has come by then is a matter of time.
    return [sink.outcome for index, sink in enumerate(sinks) if index != 7]


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
    assert packed_ladder(16) == [16]
    assert packed_ladder(100) == [16, 32, 64, 128]
    assert packed_ladder(4096)[-1] == 2048


@pytest.mark.parametrize(
    ("settings", "shapes"),
    [
        ({}, {}),
        # With few pages in all, sequences lose theirs and get others.
        ({"block_tokens": 4, "max_total_tokens": 400, "max_request_tokens": 200}, {}),
        # Shapes too small for a step, which is then computed in parts.
        ({}, {"most_rows": 3, "most_packed_rows": 16}),
        ({"prefill_budget_tokens": 16}, {}),
    ],
    ids=["plain", "few pages", "parts", "mixed"],
)
def test_padded_steps_ahead_of_their_ids_draw_what_plain_ones_draw(lm, settings, shapes):
    plain = crowd(lm, make_engine(lm, **settings))
    engine = make_engine(lm, **settings)
    padded = engine._runner._padded = CountedSteps(engine._runner, **shapes)
    assert crowd(lm, engine) == plain
    assert min(padded.num_steps.values()) > 5
    assert padded.num_ahead > 100
    assert padded.num_together > 30
    assert padded._table._lines == {}
    if "max_total_tokens" in settings:
        assert engine.stats().preemptions > 0


@pytest.mark.parametrize("most_rows", [64, 3], ids=["plain", "parts"])
def test_it_changes_nothing_when_samples_are_known_before_the_next_step(lm, most_rows):
    engine, picks = make_engine(lm), random.Random(2)
    padded = engine._runner._padded = CountedSteps(engine._runner, most_rows)
    step = engine.step

    def step_and_settle():
        result = step()
        if picks.random() < 0.4:
            engine._cycle.settle()
        return result

    engine.step = step_and_settle
    assert crowd(lm, engine) == crowd(lm, make_engine(lm))
    assert padded.num_together > 30


def test_what_is_computed_for_a_code_that_is_none_is_dropped(lm):
    """A model that asks for text all the time: the row launched for a code is that of text in truth."""
    outcomes = []
    for is_padded in (False, True):
        engine = make_engine(lm)
        if is_padded:
            engine._runner._padded = CountedSteps(engine._runner)
        bias = lm.head_bias
        try:
            lm.head_bias = torch.nn.Parameter(torch.zeros(lm.ids.head_size), requires_grad=False)
            lm.head_bias[lm.ids.fill] = 8.0
            sink = RecordingSink()
            handle = engine.open_text_run(prompt_of(lm, [], [9] * 6, [8] * 20), sink, seed=1)
            handle.append(list(range(60)))
            handle.finish()
            run_dry(engine)
        finally:
            lm.head_bias = bias
        outcomes.append(sink.outcome)
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0][0]) > 5


def test_a_step_is_cut_into_parts_that_keep_its_rows(lm):
    from light_tts.llm.scheduler import Chunk
    from tests.llm.test_model_runner import sequence_of

    sequences = [sequence_of(lm, [1] * 40, []) for _ in range(5)]
    lengths = [1, 30, 1, 5, 40]
    chunks = [Chunk(s, 3, n, samples=n != 5) for s, n in zip(sequences, lengths, strict=True)]
    parts = parts_of(chunks, most_sequences=3, most_rows=16)
    assert all(len(part) <= 3 and sum(chunk.num_rows for chunk in part) <= 16 for part in parts)
    pieces = [chunk for part in parts for chunk in part]
    assert [chunk.num_rows for chunk in parts[0][:2]] == [1, 1]
    for chunk in chunks:
        own = [piece for piece in pieces if piece.sequence is chunk.sequence]
        places = [place for piece in own for place in range(piece.start, piece.start + piece.num_rows)]
        assert places == list(range(3, 3 + chunk.num_rows))
        assert [piece.samples for piece in own] == [False] * (len(own) - 1) + [chunk.samples]
    assert parts_of(chunks, most_sequences=5, most_rows=77) == [sorted(chunks, key=lambda chunk: chunk.num_rows > 1)]


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


@pytest.mark.parametrize("shape", [StepShape.decoding(16), StepShape.packed(16, 4)], ids=["decoding", "packed"])
def test_padding_leaves_the_pages_of_sequences_alone(lm, shape):
    from tests.llm.test_model_runner import Chunk, sequence_of

    runner = ModelRunner(lm, num_blocks=32, block_tokens=4, win_size=10, tau_r=0.1)
    sequence = sequence_of(lm, [9], blocks=[0, 1, 2, 3])
    runner.run([Chunk(sequence, 0, sequence.num_rows - 1)])
    before = runner.cache._by_page[:, :32].clone()
    padded = CountedSteps(runner)
    with torch.inference_mode():
        padded._inputs.fill([Chunk(sequence, sequence.num_rows - 1, 1)], shape, 0)
        PaddedStep(lm, runner.cache, plain_kernels(runner._sampler)).compute(padded._inputs.views(shape))
    changed = (runner.cache._by_page[:, :32] != before).any(dim=-1)
    assert changed.any(dim=0).nonzero().tolist() == [[(sequence.num_rows - 1) // 4]]
    assert runner.cache._by_page[:, 33].any()
    assert padded._drawn[0] != 0
    assert not padded._drawn[1:-1].any()


def test_a_machine_without_a_gpu_records_nothing(lm):
    assert why_not(torch.device("cpu"), 64)
    engine = make_engine(lm)
    engine.capture()
    assert engine._runner._padded is None


class Version:
    """Stands for a step: takes so long, or fails for more rows than it can."""

    def __init__(self, name, time_ms, most_rows=1000, most_working=1000):
        self.kernels = SimpleNamespace(name=name, most_rows=most_rows)
        self.time_ms, self.most_working = time_ms, most_working
        self.num_tries = 0

    def replay(self):
        return self.kernels.name


def test_the_fastest_version_that_works_is_recorded(monkeypatch, caplog):
    def record(_, version, views):
        version.num_tries += 1
        if len(views.rows.rows) > version.most_working:
            raise RuntimeError("out of shared memory")
        return version

    monkeypatch.setattr(GraphRecorder, "_record", record)
    monkeypatch.setattr(cuda_graph, "_milliseconds", lambda version: version.time_ms)
    fragile, slow, last = Version("fragile", 1.0, 64, most_working=8), Version("slow", 2.0), Version("last", 0.0)
    recorder = GraphRecorder([fragile, slow, last])
    sizes = (128, 64, 32, 8, 1)
    chosen = [recorder(SimpleNamespace(rows=SimpleNamespace(rows=range(size))))() for size in sizes]
    assert chosen == ["slow", "slow", "slow", "fragile", "fragile"]
    assert fragile.num_tries == 4
    assert last.num_tries == 0
    assert recorder.chosen == {"slow": [128, 64, 32], "fragile": [8, 1]}
    assert "fragile kernels fail for 64 rows (RuntimeError: out of shared memory)" in caplog.text
    alone = GraphRecorder([Version("broken", 1.0, most_working=0), last])
    assert alone(SimpleNamespace(rows=SimpleNamespace(rows=range(3))))() == "last"


@pytest.fixture(params=MODELS)
def on_gpu(request):
    return load_tiny(request.param, device="cuda")


def recorded(lm, **settings):
    """An engine that has recorded steps: few shapes, since each takes its time."""
    engine = make_engine(lm, **{"graph_max_batch_size": 16, "prefill_budget_tokens": 256} | settings)
    engine.capture()
    assert engine._runner._padded is not None
    return engine


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"block_tokens": 4, "max_total_tokens": 400, "max_request_tokens": 200},
        {"graph_max_batch_size": 5},
        {"prefill_budget_tokens": 16},
        {"overlap_kernels": False},
    ],
    ids=["plain", "few pages", "several replays", "mixed", "not overlapping"],
)
def test_replayed_steps_draw_what_eager_ones_draw(on_gpu, settings):
    eager = make_engine(on_gpu, disable_cudagraph=True, **settings)
    eager.capture()
    assert eager._runner._padded is None
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


@pytest.mark.gpu
def test_kernels_that_fail_are_left_out_and_named(on_gpu, monkeypatch, caplog):
    """The fused products do not compile, say: steps are recorded with what is left, and draw the same."""
    from light_tts.kernels.split_linear_triton import SplitLinear

    def broken(*_, **__):
        raise RuntimeError("out of shared memory")

    expected = crowd(on_gpu, make_engine(on_gpu))
    monkeypatch.setattr(SplitLinear, "linear", broken)
    engine = recorded(on_gpu)
    assert "fused kernels fail" in caplog.text
    assert "out of shared memory" in caplog.text
    assert crowd(on_gpu, engine) == expected
