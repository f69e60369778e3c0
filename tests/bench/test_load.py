"""Closed and open loop against targets that speak on command."""

import asyncio
import time
from collections.abc import AsyncGenerator
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_tts.bench import load
from light_tts.bench.load import LoadPlan, poisson_arrivals, run_load
from light_tts.bench.target import Piece, RequestFailed, SpeechRequest
from light_tts.errors import ConfigError, LightTTSError

TEXTS = ("one", "two", "three")
SECOND = Piece(np.full(24_000, 0.5, np.float32), 24_000)


class Scripted:
    """A target that answers each request with one second of audio, and remembers what it saw."""

    def __init__(self) -> None:
        self.requests: list[SpeechRequest] = []
        self.running = self.most_running = 0

    async def before_audio(self, request: SpeechRequest) -> None:
        await asyncio.sleep(0)

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Piece, None]:
        self.requests.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.before_audio(request)
            yield SECOND
        finally:
            self.running -= 1


async def test_closed_loop_keeps_each_worker_busy_with_one_request() -> None:
    target = Scripted()
    result = await run_load(target, TEXTS, LoadPlan(workers=3, num_requests=20), stream=True)
    assert [row.index for row in result.rows] == list(range(20))
    assert target.most_running == 3
    assert target.running == 0


async def test_each_request_has_its_text_and_seed() -> None:
    target = Scripted()
    result = await run_load(target, TEXTS, LoadPlan(workers=2, num_requests=7, seed=40), stream=True)
    assert [(row.text, row.seed) for row in result.rows] == [(TEXTS[i % 3], 40 + i) for i in range(7)]
    assert {(request.text, request.seed) for request in target.requests} == {(r.text, r.seed) for r in result.rows}


async def test_open_loop_never_waits_for_answers() -> None:
    """No answer comes before the last request has arrived: a load that waits for one would time out here."""

    class AllAtTheEnd(Scripted):
        everybody_here = asyncio.Event()

        async def before_audio(self, request: SpeechRequest) -> None:
            if len(self.requests) == 30:
                self.everybody_here.set()
            await self.everybody_here.wait()

    target = AllAtTheEnd()
    plan = LoadPlan(mode="open", rate_hz=1000.0, num_requests=30, timeout_s=60.0)
    result = await run_load(target, TEXTS, plan, stream=True)
    assert target.most_running == 30
    assert [row.error for row in result.rows] == [None] * 30


async def test_open_loop_times_count_from_when_a_request_was_due() -> None:
    """A client that is held up must show the wait in the figures, not swallow it."""

    class HoldsUpTheClient(Scripted):
        async def before_audio(self, request: SpeechRequest) -> None:
            time.sleep(0.02)  # noqa: ASYNC251 - on purpose: the whole event loop stands still

    plan = LoadPlan(mode="open", rate_hz=10_000.0, num_requests=5)
    rows = (await run_load(HoldsUpTheClient(), TEXTS, plan, stream=True)).rows
    assert [row.due_s for row in rows] == list(islice(poisson_arrivals(10_000.0, 0), 5))
    assert rows[-1].sent_late_s > rows[0].sent_late_s
    for row in rows:
        assert row.first_audio_s is not None
        assert row.sent_late_s < row.first_audio_s <= row.total_s


async def test_warm_up_is_not_counted_and_shares_no_seed() -> None:
    target = Scripted()
    result = await run_load(target, TEXTS, LoadPlan(num_requests=4, warmup_requests=3), stream=True)
    assert len(result.rows) == 4
    assert len(target.requests) == 7
    assert len({request.seed for request in target.requests}) == 7


async def test_a_target_that_only_fails_stops_at_the_warm_up() -> None:
    class Refuses(Scripted):
        async def before_audio(self, request: SpeechRequest) -> None:
            raise RequestFailed("http 404", "no such page")

    with pytest.raises(LightTTSError, match="http 404: no such page"):
        await run_load(Refuses(), TEXTS, LoadPlan(num_requests=4, warmup_requests=2), stream=True)


async def test_failures_and_time_outs_are_rows_like_others() -> None:
    class Moody(Scripted):
        async def before_audio(self, request: SpeechRequest) -> None:
            if request.seed == 1:
                raise RequestFailed("http 503 OVERLOADED", "busy")
            if request.seed == 2:
                await asyncio.Event().wait()

    target = Moody()
    plan = LoadPlan(workers=4, num_requests=4, timeout_s=1.0)
    rows = (await run_load(target, TEXTS, plan, stream=True)).rows
    assert [row.error for row in rows] == [None, "http 503 OVERLOADED", "timeout", None]
    assert [row.underruns for row in rows] == [0, None, None, 0]
    assert rows[1].message == "busy"
    assert target.running == 0, "a request that was given up is closed"


async def test_an_answer_without_audio_is_a_failure() -> None:
    class Mute:
        async def speak(self, request: SpeechRequest) -> AsyncGenerator[Piece, None]:
            for piece in ():
                yield piece

    rows = (await run_load(Mute(), TEXTS, LoadPlan(num_requests=1), stream=True)).rows
    assert (rows[0].error, rows[0].first_audio_s) == ("no audio", None)


async def test_listeners_hear_one_answer_to_its_end_before_they_ask_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load, "_JOIN_S", 0.3)

    class Short(Scripted):
        async def speak(self, request: SpeechRequest) -> AsyncGenerator[Piece, None]:
            self.requests.append(request)
            for _ in range(4):
                yield Piece(np.full(2_400, 0.5, np.float32), 24_000)

    plan = LoadPlan(mode="listeners", workers=3, num_requests=9)
    result = await run_load(Short(), TEXTS, plan, stream=True)
    assert [row.error for row in result.rows] == [None] * 9
    first = sorted(row.due_s for row in result.rows)[:3]
    assert first == pytest.approx([0.0, 0.1, 0.2])
    later = sorted(row.due_s for row in result.rows)[3:]
    assert min(later) >= 0.4  # the answers come at once, and last 0.4 s
    assert plan.label == "3 listeners"


async def test_a_listener_whose_request_failed_asks_again() -> None:
    class Failing(Scripted):
        async def before_audio(self, request: SpeechRequest) -> None:
            raise RequestFailed("503", "full")

    result = await run_load(Failing(), TEXTS, LoadPlan(mode="listeners", num_requests=3), stream=True)
    assert [row.error for row in result.rows] == ["503"] * 3


async def test_duration_ends_both_loops() -> None:
    for plan in (LoadPlan(workers=2, duration_s=0.05), LoadPlan(mode="open", rate_hz=200.0, duration_s=0.05)):
        rows = (await run_load(Scripted(), TEXTS, plan, stream=True)).rows
        assert rows
        assert all(row.due_s < 0.05 for row in rows)


async def test_silence_at_the_beginning_is_measured_across_pieces() -> None:
    class SlowToSpeak(Scripted):
        async def speak(self, request: SpeechRequest) -> AsyncGenerator[Piece, None]:
            yield Piece(np.zeros(4800, np.float32), 24_000)
            yield Piece(np.concatenate([np.full(2400, 0.001, np.float32), np.full(9600, -0.5, np.float32)]), 24_000)

    rows = (await run_load(SlowToSpeak(), TEXTS, LoadPlan(num_requests=1), stream=True)).rows
    assert rows[0].leading_silence_s == pytest.approx(0.3)
    assert rows[0].audio_s == pytest.approx(0.7)
    assert [audio_s for _, audio_s in rows[0].arrivals] == pytest.approx([0.2, 0.5])


async def test_buffered_answers_have_no_player() -> None:
    rows = (await run_load(Scripted(), TEXTS, LoadPlan(num_requests=1), stream=False)).rows
    assert (rows[0].error, rows[0].underruns, rows[0].late_s) == (None, None, None)


@given(st.integers(0, 2**32), st.floats(0.1, 1000.0))
def test_poisson_arrivals_are_reproducible_and_in_order(seed: int, rate_hz: float) -> None:
    first = list(islice(poisson_arrivals(rate_hz, seed), 50))
    assert first == list(islice(poisson_arrivals(rate_hz, seed), 50))
    assert first == sorted(first)
    assert first != list(islice(poisson_arrivals(rate_hz, seed + 1), 50))


def test_poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() -> None:
    gaps = np.diff([0.0, *islice(poisson_arrivals(4.0, seed=1), 20_000)])
    assert gaps.mean() == pytest.approx(0.25, rel=0.05)
    assert gaps.std() == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({}, "--requests"),
        ({"num_requests": 0}, "--requests"),
        ({"duration_s": float("nan")}, "--duration-s"),
        ({"num_requests": 1, "workers": 0}, "--workers"),
        ({"num_requests": 1, "rate_hz": -1.0}, "--rate"),
        ({"num_requests": 1, "timeout_s": 0.0}, "--timeout-s"),
        ({"num_requests": 1, "warmup_requests": -1}, "--warm-up"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(bad: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LoadPlan(**bad)
