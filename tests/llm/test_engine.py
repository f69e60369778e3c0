"""The engine: the same tokens alone and in any crowd, runs that end alone, nothing left behind."""

import gc
import random
import threading
import weakref

import pytest
import torch

from light_tts.errors import Cancelled, EngineFailure, InvalidRequest, StageLost, TextTooLong
from light_tts.events import NoEvents
from light_tts.gpu_turns import GpuTurns
from light_tts.llm.decoding_group import NO_AHEAD_ROWS
from light_tts.llm.isolation import MAX_FAILED_STEPS
from light_tts.llm.model_runner import ModelRunner
from light_tts.llm.scheduler import StepPlan
from light_tts.types import FinishReason, SamplingOptions
from tests.llm.tiny_llm import RecordingSink, make_engine, prompt_of, run_dry


def make_jobs(lm, count, seed=0):
    """Runs of every kind: (name, prompt, seed, text pieces or None, sampling)."""
    dice = random.Random(seed)
    shared = [[dice.randrange(300) for _ in range(n)] for n in (19, 33)]
    jobs = []
    for index in range(count):
        prompt_text = dice.choice([[], *shared])
        prompt_speech = [dice.randrange(240) for _ in range(dice.choice([0, 7, 15, 22]))]
        text = [dice.randrange(300) for _ in range(dice.randint(1, 12))]
        sampling = SamplingOptions(greedy=True) if index % 5 == 4 else SamplingOptions()
        if index % 3 == 2:
            cut = dice.randint(0, len(text))
            jobs.append((prompt_of(lm, [], prompt_text, prompt_speech), index, [text[:cut], text[cut:]], sampling))
        else:
            jobs.append((prompt_of(lm, text, prompt_text, prompt_speech), index, None, sampling))
    return jobs


def start(engine, job, sink):
    prompt, seed, pieces, sampling = job
    if pieces is None:
        return engine.submit(prompt, sink, seed=seed, sampling=sampling), []
    return engine.open_text_run(prompt, sink, seed=seed, sampling=sampling), [*pieces, None]


def feed(handle, pieces):
    piece = pieces.pop(0)
    if piece is None:
        handle.finish()
    else:
        handle.append(piece)


def alone(lm, job, **settings):
    engine, sink = make_engine(lm, **settings), RecordingSink()
    handle, pieces = start(engine, job, sink)
    while pieces:
        feed(handle, pieces)
    run_dry(engine)
    return sink.outcome


@pytest.fixture(scope="module")
def expected(tiny_models):
    """What each job gives when nothing else runs."""
    return {name: [alone(lm, job, prefix_cache=False) for job in make_jobs(lm, 12)] for name, lm in tiny_models.items()}


@pytest.fixture
def name(lm, tiny_models):
    return next(name for name, model in tiny_models.items() if model is lm)


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"block_tokens": 1, "prefill_budget_tokens": 16, "max_running": 4},
        # Pages for about two runs at a time: pre-emption all the time.
        {"block_tokens": 8, "max_total_tokens": 384, "max_request_tokens": 384, "prefill_budget_tokens": 24},
    ],
    ids=["roomy", "narrow", "starved"],
)
def test_tokens_are_the_same_alone_and_in_any_crowd(lm, name, expected, settings, prefix_cache, seed):
    """Twelve runs arrive at random times, texts come in pieces, others are aborted in between."""
    dice = random.Random(seed)
    engine = make_engine(lm, prefix_cache=prefix_cache, **settings)
    jobs = make_jobs(lm, 12)
    order = dice.sample(range(12), 12)
    sinks, open_texts, victims = {}, [], []
    while order or open_texts:
        if order and dice.random() < 0.5:
            index = order.pop()
            sinks[index] = RecordingSink()
            handle, pieces = start(engine, jobs[index], sinks[index])
            if pieces:
                open_texts.append((handle, pieces))
        if dice.random() < 0.2:
            victims.append(start(engine, dice.choice(jobs[::3]), RecordingSink())[0])
        if victims and dice.random() < 0.3:
            victims.pop().abort()
        if open_texts and dice.random() < 0.3:
            handle, pieces = open_texts[dice.randrange(len(open_texts))]
            feed(handle, pieces)
            open_texts = [(h, p) for h, p in open_texts if p]
        for _ in range(dice.randint(0, 12)):
            engine.step()
    for victim in victims:
        victim.abort()
    run_dry(engine)
    assert [sinks[index].outcome for index in range(12)] == expected[name]
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.parked, stats.kv_blocks_used) == (0, 0, 0, 0)
    assert (stats.preemptions > 0) == ("max_total_tokens" in settings)
    assert (stats.prefix_rows_reused > 0) == prefix_cache


def test_a_run_depends_on_seed_and_index(lm):
    prompt = prompt_of(lm, [1, 2, 3, 4])
    results = []
    for seed, run_index in ((1, 0), (1, 0), (1, 1), (2, 0)):
        engine, sink = make_engine(lm), RecordingSink()
        engine.submit(prompt, sink, seed=seed, run_index=run_index)
        run_dry(engine)
        results.append(sink.codes)
    assert results[0] == results[1]
    assert results[0] != results[2]
    assert results[0] != results[3]


def test_lengths_stay_within_the_limits_of_the_counted_ids(lm):
    for seed in range(6):
        engine, sink = make_engine(lm), RecordingSink()
        engine.submit(prompt_of(lm, [5, 6, 7]), sink, seed=seed)
        run_dry(engine)
        assert 6 <= len(sink.codes) <= 60
        assert (sink.reason is FinishReason.LENGTH) == (len(sink.codes) == 60)
        assert all(0 <= code < lm.ids.num_codes for code in sink.codes)


def test_aborting_frees_the_pages_in_one_step(lm):
    engine, sink = make_engine(lm), RecordingSink()
    handle = engine.submit(prompt_of(lm, [1] * 10), sink, seed=0)
    engine.step()
    assert engine.stats().kv_blocks_used > 0
    handle.abort()
    handle.abort()
    engine.step()
    assert engine.stats().kv_blocks_used == 0
    assert sink.reason is FinishReason.ABORT
    assert sink.num_ends == 1


def test_aborting_after_the_end_changes_nothing(lm):
    engine, sink = make_engine(lm), RecordingSink()
    handle = engine.submit(prompt_of(lm, [1]), sink, seed=0)
    run_dry(engine)
    reason = sink.reason
    handle.abort()
    run_dry(engine)
    assert sink.reason is reason
    assert sink.num_ends == 1


class FailingSink(RecordingSink):
    def put(self, tokens):
        raise RuntimeError("the listener is broken")


def test_a_failing_listener_ends_its_own_run_only(lm):
    engine, bad, good = make_engine(lm), FailingSink(), RecordingSink()
    job = make_jobs(lm, 1)[0]
    start(engine, job, bad)
    start(engine, job, good)
    run_dry(engine)
    assert isinstance(bad.error, EngineFailure)
    assert good.outcome == alone(lm, job)
    assert engine.stats().kv_blocks_used == 0


def test_logits_that_are_not_finite_end_their_run_only(lm):
    """The sick pages are cleaned before anyone else gets them."""
    engine = make_engine(lm, block_tokens=4)
    job = make_jobs(lm, 1)[0]
    sick, well = RecordingSink(), RecordingSink()
    start(engine, job, sick)
    engine.step()
    engine._runner.cache._by_page[:, engine._scheduler.running[0].blocks[0]] = float("nan")
    # Another prompt text, or the new run would rightly share the poisoned beginning.
    other = (prompt_of(lm, [1, 2, 3]), 7, None, SamplingOptions())
    start(engine, other, well)
    run_dry(engine)
    assert isinstance(sick.error, EngineFailure)
    assert well.outcome == alone(lm, other)
    assert torch.isfinite(engine._runner.cache._by_page).all()
    again = RecordingSink()
    start(engine, job, again)
    run_dry(engine)
    assert again.outcome == alone(lm, job)


def test_a_text_that_cannot_fit_is_refused_with_the_limit(lm):
    engine, sink = make_engine(lm, max_request_tokens=64), RecordingSink()
    with pytest.raises(TextTooLong, match="64"):
        engine.submit(prompt_of(lm, [1] * 30), sink, seed=0)
    assert sink.num_ends == 0


def test_the_longest_speech_is_cut_to_what_fits(lm):
    engine, sink = make_engine(lm, max_request_tokens=64), RecordingSink()
    engine.submit(prompt_of(lm, [1] * 10, [2] * 20), sink, seed=3, sampling=SamplingOptions(temperature=0.01))
    run_dry(engine)
    assert len(sink.codes) <= 64 - 32


def test_a_text_stream_that_outgrows_the_limit_fails_alone(lm):
    engine, sink = make_engine(lm, max_request_tokens=64), RecordingSink()
    handle = engine.open_text_run(prompt_of(lm, []), sink, seed=0)
    handle.append([1] * 30)
    engine.step()
    handle.append([1] * 40)
    run_dry(engine)
    assert isinstance(sink.error, TextTooLong)
    assert engine.stats().kv_blocks_used == 0


@pytest.mark.parametrize(
    ("text", "speech", "sampling"),
    [
        ([10_000], [], SamplingOptions()),
        ([-1], [], SamplingOptions()),
        ([1], [243], SamplingOptions()),
        ([1], [], SamplingOptions(top_p=0.0)),
        ([1], [], SamplingOptions(top_k=0)),
        ([1], [], SamplingOptions(temperature=0.0)),
    ],
)
def test_values_out_of_range_are_the_callers_mistake(lm, text, speech, sampling):
    engine = make_engine(lm)
    with pytest.raises(InvalidRequest):
        engine.submit(prompt_of(lm, text, [], speech), RecordingSink(), seed=0, sampling=sampling)
    assert not engine.step()


def test_a_model_that_needs_the_end_of_prompt_tag_says_so(tiny_models):
    lm = tiny_models["cosyvoice3"]
    engine = make_engine(lm)
    prompt = prompt_of(lm, [1, 2])
    bare = type(prompt)((), prompt.text_ids, (), 2)
    with pytest.raises(InvalidRequest, match="endofprompt"):
        engine.submit(bare, RecordingSink(), seed=0)


def test_no_text_gives_no_speech(lm):
    engine, sink, stream_sink = make_engine(lm), RecordingSink(), RecordingSink()
    engine.submit(prompt_of(lm, []), sink, seed=0)
    engine.open_text_run(prompt_of(lm, [], [5] * 9, [6] * 20), stream_sink, seed=0).finish()
    run_dry(engine)
    assert sink.outcome == stream_sink.outcome == ([], FinishReason.LENGTH, type(None))


def test_a_run_that_waits_for_text_takes_no_place_in_the_batch(lm):
    engine, parked, other = make_engine(lm, max_running=1), RecordingSink(), RecordingSink()
    handle = engine.open_text_run(prompt_of(lm, [], [5] * 9, [6] * 20), parked, seed=0)
    run_dry(engine)
    assert engine.stats().parked == 1
    assert engine.stats().kv_blocks_used > 0
    engine.submit(prompt_of(lm, [1, 2]), other, seed=0)
    run_dry(engine)
    assert other.num_ends == 1
    handle.append([1, 2, 3])
    handle.finish()
    run_dry(engine)
    assert parked.codes
    assert parked.num_ends == 1


def test_silences_are_cut_for_the_listener_and_kept_for_the_model(tiny_models):
    """A model whose every code is silent: five are heard, the run is as long as it would have been."""
    from dataclasses import replace

    lm = tiny_models["cosyvoice3"]
    plain = lm.ids
    full, cut = RecordingSink(), RecordingSink()
    prompt = prompt_of(lm, [1, 2, 3])
    for sink, silent in ((full, frozenset()), (cut, frozenset(range(plain.num_codes)))):
        lm.ids = replace(plain, silent_codes=silent)
        try:
            engine = make_engine(lm)
            engine.submit(prompt, sink, seed=0)
            run_dry(engine)
        finally:
            lm.ids = plain
        assert engine.stats().speech_tokens >= 6
    assert len(full.codes) >= 6
    assert cut.codes == full.codes[:5]
    assert cut.reason is full.reason


class WaitingSink(RecordingSink):
    def __init__(self):
        super().__init__()
        self.finished = threading.Event()

    def end(self, reason):
        super().end(reason)
        self.finished.set()

    def fail(self, error):
        super().fail(error)
        self.finished.set()


@pytest.fixture
def started(lm):
    engine = make_engine(lm)
    engine.start()
    yield engine
    engine.close()


def test_the_thread_serves_many_callers(lm, started):
    jobs = make_jobs(lm, 9)
    sinks = [WaitingSink() for _ in jobs]

    def call(job, sink):
        handle, pieces = start(started, job, sink)
        while pieces:
            feed(handle, pieces)

    callers = [threading.Thread(target=call, args=pair) for pair in zip(jobs, sinks, strict=True)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for job, sink in zip(jobs, sinks, strict=True):
        assert sink.finished.wait(30)
        assert sink.outcome == alone(lm, job)
    assert started.is_alive
    assert started.error is None


def test_a_run_that_has_enough_for_its_first_audio_gives_way_to_it(lm):
    longest = max(make_jobs(lm, 12), key=lambda job: len(alone(lm, job)[0]) if job[2] is None else 0)
    turns, sink = GpuTurns(first_codes=4), WaitingSink()
    engine = make_engine(lm, turns=turns)
    first = turns.begin(is_first=True)
    engine.start()
    try:
        handle, _ = start(engine, longest, sink)
        assert not sink.finished.wait(0.3)
        assert len(handle._run.layout.history) == 4
        first.end()
        assert sink.finished.wait(30)
        assert sink.outcome == alone(lm, longest)
    finally:
        engine.close()


@pytest.fixture
def patient(lm, monkeypatch):
    """An engine that waits for long for a call which could begin, with a run that has just enough for one."""
    monkeypatch.setattr("light_tts.llm.engine.FIRST_CALL_BEGINS_S", 60.0)
    job = max(make_jobs(lm, 12), key=lambda job: len(alone(lm, job)[0]) if job[2] is None else 0)
    turns, sink = GpuTurns(first_codes=4), WaitingSink()
    engine = make_engine(lm, turns=turns)
    engine.start()
    try:
        handle, _ = start(engine, job, sink)
        assert not sink.finished.wait(0.3)
        assert len(handle._run.layout.history) == 4
        yield engine, turns, sink, alone(lm, job)
    finally:
        engine.close()


def test_a_call_that_can_begin_is_not_disturbed_while_it_is_launched(patient):
    _, turns, sink, expected = patient
    first = turns.begin(is_first=True)
    assert not sink.finished.wait(0.1)
    first.end()
    assert sink.finished.wait(30)
    assert sink.outcome == expected


def test_nobody_who_comes_meanwhile_waits_for_a_call_that_could_begin(lm, patient, monkeypatch):
    engine, _, sink, expected = patient
    job, other = make_jobs(lm, 1)[0], WaitingSink()
    monkeypatch.setattr("light_tts.llm.engine.FIRST_CALL_BEGINS_S", 0.0)  # only the wait under way is long
    start(engine, job, other)
    for each in (sink, other):
        assert each.finished.wait(30)
    assert sink.outcome == expected
    assert other.outcome == alone(lm, job)


def test_an_engine_that_shares_nothing_is_freed_when_nobody_has_it_any_more(lm):
    engine = make_engine(lm)
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None


def test_closing_fails_what_runs_and_refuses_what_comes(lm, started):
    sink = WaitingSink()
    started.open_text_run(prompt_of(lm, []), sink, seed=0)
    started.close()
    started.close()
    assert isinstance(sink.error, Cancelled)
    assert not started.is_alive
    assert started.stats().kv_blocks_used == 0
    with pytest.raises(EngineFailure):
        started.submit(prompt_of(lm, [1]), RecordingSink(), seed=0)


def test_a_dead_thread_fails_every_run_is_seen_and_can_be_started_again(lm, started, monkeypatch):
    waiting, running, deaths = WaitingSink(), WaitingSink(), []
    started.on_death = lambda: deaths.append(waiting.error)
    started.open_text_run(prompt_of(lm, []), waiting, seed=0)

    def broken():
        if started._scheduler.waiting:
            raise RuntimeError("lost count")
        return StepPlan(NO_AHEAD_ROWS, [])

    with monkeypatch.context() as patch:
        patch.setattr(started._scheduler, "schedule", broken)
        started.submit(prompt_of(lm, [1, 2]), running, seed=0)
        for sink in (waiting, running):
            assert sink.finished.wait(30)
            assert isinstance(sink.error, StageLost)
        started.join()
    assert not started.is_alive
    assert "lost count" in str(started.error)
    assert deaths == [waiting.error]
    with pytest.raises(StageLost, match="lost count"):
        started.submit(prompt_of(lm, [1]), RecordingSink(), seed=0)
    started.start()
    again = WaitingSink()
    job = make_jobs(lm, 1)[0]
    start(started, job, again)
    assert again.finished.wait(30)
    assert again.outcome == alone(lm, job)


def breaking(engine, guilty, monkeypatch):
    """Computing the guilty layout raises, alone or in company."""
    launch = engine._runner.launch

    def launch_or_raise(plan):
        if any(chunk.sequence.layout is guilty.get("layout") for chunk in plan.as_chunks()):
            raise RuntimeError("bad rows")
        return launch(plan)

    monkeypatch.setattr(engine._runner, "launch", launch_or_raise)


def test_a_run_that_cannot_be_computed_ends_alone(lm, monkeypatch):
    engine, guilty = make_engine(lm), {}
    breaking(engine, guilty, monkeypatch)
    jobs = make_jobs(lm, 4)
    sinks = [RecordingSink() for _ in jobs]
    handles = [start(engine, job, sink) for job, sink in zip(jobs, sinks, strict=True)]
    victim, other = RecordingSink(), RecordingSink()
    engine.submit(prompt_of(lm, [1, 2, 3]), victim, seed=0)
    guilty["layout"] = max(engine._live, key=lambda run: run.arrival).layout
    for handle, pieces in handles:
        while pieces:
            feed(handle, pieces)
    run_dry(engine)
    assert type(victim.error) is EngineFailure
    assert victim.num_ends == 1
    for job, sink in zip(jobs, sinks, strict=True):
        assert sink.outcome == alone(lm, job)
    assert engine.stats().kv_blocks_used == 0
    engine.submit(prompt_of(lm, [1, 2]), other, seed=0)
    run_dry(engine)
    assert other.error is None


def test_steps_that_all_fail_break_the_engine(lm, monkeypatch):
    engine = make_engine(lm)

    def broken(plan):
        raise RuntimeError("no memory")

    monkeypatch.setattr(engine._runner, "launch", broken)
    sinks = [RecordingSink() for _ in range(MAX_FAILED_STEPS)]
    for sink in sinks[:-1]:
        engine.submit(prompt_of(lm, [1, 2]), sink, seed=0)
        engine.step()
        assert type(sink.error) is EngineFailure
    engine.submit(prompt_of(lm, [1, 2]), sinks[-1], seed=0)
    with pytest.raises(RuntimeError, match="no memory"):
        engine.step()


def test_every_run_gets_its_share_of_the_steps(lm):
    engine, steps = make_engine(lm), []
    engine._cycle.events = Recorder(steps)
    handles = [engine.submit(prompt_of(lm, [1, 2, 3]), RecordingSink(), seed=seed) for seed in range(3)]
    run_dry(engine)
    assert all(handle.busy_s > 0 for handle in handles)
    assert sum(handle.busy_s for handle in handles) == pytest.approx(sum(step.seconds for step in steps))
    assert max(step.sequences for step in steps) == 3


class Recorder(NoEvents):
    def __init__(self, steps):
        self.steps = steps

    def llm_step(self, step):
        self.steps.append(step)


def test_a_greedy_engine_says_the_same_whatever_the_seed(tiny_models):
    lm = tiny_models["cosyvoice2"]
    prompt = prompt_of(lm, [5, 9, 100, 7], [3, 4, 5])

    def codes(seed, **settings):
        return alone(lm, (prompt, seed, None, SamplingOptions()), **settings)

    assert codes(1) != codes(2)
    assert codes(1, greedy=True) == codes(2, greedy=True)
    assert codes(1, greedy=True) == alone(lm, (prompt, 3, None, SamplingOptions(greedy=True)))


def test_settings_decide_when_runs_join(tiny_models):
    lm = tiny_models["cosyvoice2"]
    engine = make_engine(lm, steps_between_admissions=5, expected_output_tokens=7, kv_watermark=0.25)
    for seed in range(2):
        engine.submit(prompt_of(lm, [5, 9, 100, 7]), RecordingSink(), seed=seed)
        engine.step()
    assert engine.stats().running == 1  # the second waits for its moment
    for _ in range(4):
        engine.step()
    assert engine.stats().running == 2


def test_the_settings_of_cuda_graphs_reach_their_recording(tiny_models, monkeypatch):
    engines = [
        make_engine(tiny_models["cosyvoice2"], **settings)
        for settings in (
            {"graph_max_batch_size": 6, "graph_warmup_iterations": 10, "max_running": 50, "prefill_budget_tokens": 300},
            {"disable_cudagraph": True},
        )
    ]
    recorded = []
    monkeypatch.setattr(ModelRunner, "capture", lambda _, progress=None, **sizes: recorded.append(sizes))
    for engine in engines:
        engine.capture()
    assert recorded == [
        {
            "most_rows": 6,
            "most_packed_rows": 300,
            "most_running": 50,
            "most_tokens": 1024,
            "warm_up_iterations": 10,
            "overlaps": True,
        }
    ]
