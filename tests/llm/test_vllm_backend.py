"""vLLM as the backend, where it is installed: the same tokens as the built-in one, runs that end alone."""

import threading
from dataclasses import dataclass, field

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed")

from light_tts.errors import Cancelled, EngineFailure, InvalidRequest, StageLost, TextTooLong, Unsupported
from light_tts.llm.vllm_backend import VLLMBackend
from light_tts.settings import LLMSettings
from light_tts.types import FinishReason, SamplingOptions
from tests.llm.tiny_llm import SAMPLING, RecordingSink, make_engine, prompt_of, run_dry

SETTINGS = {"max_total_tokens": 4096, "max_request_tokens": 1024, "max_running": 16}
WAIT_S = 60.0

pytestmark = pytest.mark.filterwarnings("ignore")  # what vLLM says while it starts is not about us


@dataclass
class WaitingSink(RecordingSink):
    begun: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def put(self, tokens):
        super().put(tokens)
        self.begun.set()

    def end(self, reason):
        super().end(reason)
        self.over.set()

    def fail(self, error):
        super().fail(error)
        self.over.set()

    def wait(self):
        assert self.over.wait(WAIT_S)
        return self.outcome


@pytest.fixture(scope="module")
def backends(tiny_models):
    """By model and settings, made once and kept to the end: vLLM starts slowly, and one that goes takes all along."""
    made = {}

    def backend_of(name, **changes):
        key = (name, *changes.items())
        if key not in made:
            settings = LLMSettings(**SETTINGS | changes)
            made[key] = VLLMBackend(tiny_models[name], sampling=SAMPLING, settings=settings, device=torch.device("cpu"))
            made[key].start()
        return made[key]

    yield backend_of
    for backend in made.values():
        backend.close()


@pytest.fixture
def backend(lm, tiny_models, backends):
    return backends(next(name for name, model in tiny_models.items() if model is lm))


def make_jobs(lm):
    """(prompt, seed, sampling) of runs of every kind."""
    samplings = [
        SamplingOptions(),
        SamplingOptions(greedy=True),
        SamplingOptions(top_p=0.95, top_k=50, temperature=1.3),
        SamplingOptions(top_k=2),
    ]
    return [
        (prompt_of(lm, [7 + index, 5, 9, 250][: 1 + index % 4], [3] * (index % 3), range(index)), index, sampling)
        for index in range(4)
        for sampling in samplings
    ]


def built_in(lm, job):
    prompt, seed, sampling = job
    engine, sink = make_engine(lm), RecordingSink()
    engine.submit(prompt, sink, seed=seed, run_index=1, sampling=sampling)
    run_dry(engine)
    return sink.outcome


def test_tokens_are_those_of_the_built_in_backend_in_a_crowd(lm, backend):
    jobs = make_jobs(lm)
    sinks = [WaitingSink() for _ in jobs]
    for (prompt, seed, sampling), sink in zip(jobs, sinks, strict=True):
        backend.submit(prompt, sink, seed=seed, run_index=1, sampling=sampling)
    outcomes = [sink.wait() for sink in sinks]
    assert outcomes == [built_in(lm, job) for job in jobs]
    assert {reason for _, reason, _ in outcomes} == {FinishReason.STOP, FinishReason.LENGTH}
    stats = backend.stats()
    assert (stats.running, stats.waiting, stats.kv_blocks_used) == (0, 0, 0)
    assert stats.kv_blocks_total >= SETTINGS["max_total_tokens"] // 128
    assert stats.speech_tokens >= sum(len(codes) for codes, _, _ in outcomes)


def test_runs_that_lose_their_pages_give_the_same_tokens(tiny_models, backends):
    """Ten runs of up to 230 tokens on four pages of 128."""
    lm, backend = tiny_models["cosyvoice2"], backends("cosyvoice2", max_total_tokens=256, max_request_tokens=256)
    jobs = [(prompt_of(lm, [7, 5, 9] * 3, (), range(40)), seed, SamplingOptions()) for seed in range(10)]
    sinks = [WaitingSink() for _ in jobs]
    for (prompt, seed, sampling), sink in zip(jobs, sinks, strict=True):
        backend.submit(prompt, sink, seed=seed, run_index=1, sampling=sampling)
    assert [sink.wait() for sink in sinks] == [built_in(lm, job) for job in jobs]


def test_an_aborted_run_ends_and_the_others_go_on(lm, backend):
    job = make_jobs(lm)[12]
    victim, other = WaitingSink(), WaitingSink()
    handle = backend.submit(prompt_of(lm, [5] * 40), victim, seed=3)
    backend.submit(job[0], other, seed=job[1], run_index=1, sampling=job[2])
    assert victim.begun.wait(WAIT_S)
    handle.abort()
    handle.abort()
    assert victim.wait()[1] is FinishReason.ABORT
    assert other.wait() == built_in(lm, job)
    assert handle.busy_s > 0.0


def test_logits_that_are_not_numbers_end_their_run_alone(lm, backend, monkeypatch):
    embed = backend._engine._embed

    def poisoned(rows):
        embeds = embed(rows)
        return embeds * float("nan") if len(rows) > 60 else embeds

    monkeypatch.setattr(backend._engine, "_embed", poisoned)
    bad, before, after = WaitingSink(), WaitingSink(), WaitingSink()
    first, second = make_jobs(lm)[12], make_jobs(lm)[4]
    backend.submit(first[0], before, seed=first[1], run_index=1, sampling=first[2])
    assert before.begun.wait(WAIT_S)
    backend.submit(prompt_of(lm, [5] * 70), bad, seed=1)
    assert isinstance(bad.wait() and bad.error, EngineFailure)
    # Pages that the bad run left are taken by others.
    backend.submit(second[0], after, seed=second[1], run_index=1, sampling=second[2])
    assert [before.wait(), after.wait()] == [built_in(lm, first), built_in(lm, second)]


def test_a_listener_that_fails_ends_its_run_alone(lm, backend):
    class Deaf(WaitingSink):
        def put(self, tokens):
            raise OSError("gone")

    deaf, good = Deaf(), WaitingSink()
    job = make_jobs(lm)[4]
    backend.submit(prompt_of(lm, [5, 6]), deaf, seed=1)
    backend.submit(job[0], good, seed=job[1], run_index=1, sampling=job[2])
    assert isinstance(deaf.wait() and deaf.error, EngineFailure)
    assert good.wait() == built_in(lm, job)


def test_what_is_wrong_is_refused_before_anything_runs(lm, backend):
    sink = WaitingSink()
    with pytest.raises(InvalidRequest):
        backend.submit(prompt_of(lm, [10**6]), sink, seed=1)
    with pytest.raises(TextTooLong):
        backend.submit(prompt_of(lm, [5] * 1024), sink, seed=1)
    with pytest.raises(InvalidRequest, match="top_p"):
        backend.submit(prompt_of(lm, [5]), sink, seed=1, sampling=SamplingOptions(top_p=2.0))
    with pytest.raises(Unsupported, match="pieces"):
        backend.open_text_run(prompt_of(lm, []), sink, seed=1)
    assert sink.num_ends == 0


def test_a_run_may_fill_the_whole_limit(lm, backend):
    """A prompt so long that the answer is cut to what fits."""
    sink = WaitingSink()
    backend.submit(prompt_of(lm, [5] * 60, [3] * 700), sink, seed=1, sampling=SamplingOptions(top_k=3))
    codes, reason, error = sink.wait()
    assert error is type(None)
    assert reason in (FinishReason.STOP, FinishReason.LENGTH)
    assert 120 <= len(codes) <= 1024 - 760


def test_after_a_failure_it_starts_again_with_nothing_running(lm, backend, monkeypatch):
    died = threading.Event()
    monkeypatch.setattr(backend, "on_death", died.set)
    step = backend._engine.step

    def broken():
        raise RuntimeError("boom")

    monkeypatch.setattr(backend._engine, "step", broken)
    sink = WaitingSink()
    backend.submit(prompt_of(lm, [5, 6, 7]), sink, seed=1)
    assert isinstance(sink.wait() and sink.error, StageLost)
    assert died.wait(WAIT_S)
    backend.join()
    assert not backend.is_alive
    with pytest.raises(StageLost):
        backend.submit(prompt_of(lm, [5]), WaitingSink(), seed=1)
    monkeypatch.setattr(backend._engine, "step", step)
    backend.start()
    job, again = make_jobs(lm)[1], WaitingSink()
    backend.submit(job[0], again, seed=job[1], run_index=1, sampling=job[2])
    assert again.wait() == built_in(lm, job)


def test_closing_cancels_what_runs(lm, backend):
    sink = WaitingSink()
    backend.submit(prompt_of(lm, [5] * 40), sink, seed=1)
    assert sink.begun.wait(WAIT_S)
    backend.close()
    assert isinstance(sink.wait() and sink.error, Cancelled)
    with pytest.raises(EngineFailure):
        backend.submit(prompt_of(lm, [5]), WaitingSink(), seed=1)
    backend.start()
