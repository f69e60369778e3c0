"""Issues the requests of a load and measures each: closed loop (n workers), open loop (Poisson arrivals), listeners.

All times of a row count from the moment its request was due, not from when it could be sent: a client that falls
behind must not hide the server's queue ("coordinated omission").
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from light_tts.bench.player import play
from light_tts.bench.target import RequestFailed, SpeechRequest, Target
from light_tts.errors import ConfigError, LightTTSError

AUDIBLE_LEVEL = 0.01  # -40 dB of full scale: quieter samples count as silence
_LAG_PERIOD_S = 0.05
_JOIN_S = 5.0  # listeners begin one after the other within so long: nobody's come all at once
# A server that refuses at once would otherwise be asked a thousand times a second by each worker.
_PAUSE_AFTER_FAILURE_S = 0.1


@dataclass(frozen=True)
class LoadPlan:
    """How requests arrive.

    mode:             closed: `workers` listeners, each asks again when its last answer has ended. open: requests
                      arrive at random moments, `rate_hz` per second on average, whatever became of the earlier ones.
                      listeners: `workers` of them, each asks again when its last answer has been played to its end.
    num_requests:     stop after so many; None: `duration_s` decides. Both: whichever comes first.
    duration_s:       ask nothing new after this; what runs then is still awaited and counted.
    warmup_requests:  sent and awaited before the measurement, not counted.
    seed:             of the arrivals, and of the first request; each further request has the next seed.
    timeout_s:        a request that takes longer is given up.
    """

    mode: Literal["closed", "open", "listeners"] = "closed"
    workers: int = 1
    rate_hz: float = 1.0
    num_requests: int | None = None
    duration_s: float | None = None
    warmup_requests: int = 0
    seed: int = 0
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        if self.num_requests is None and self.duration_s is None:
            raise ConfigError("A load needs an end: give --requests, --duration-s, or both.")
        for flag, value in (("--workers", self.workers), ("--rate", self.rate_hz), ("--timeout-s", self.timeout_s)):
            if not value > 0:
                raise ConfigError(f"{flag} must be above 0, not {value}.")
        for flag, end in (("--requests", self.num_requests), ("--duration-s", self.duration_s)):
            if end is not None and not end > 0:
                raise ConfigError(f"{flag} must be above 0, not {end}.")
        if self.warmup_requests < 0:
            raise ConfigError(f"--warm-up must not be negative, not {self.warmup_requests}.")

    @property
    def label(self) -> str:
        """The level of this load in a few words."""
        if self.mode == "open":
            return f"{self.rate_hz:g} req/s"
        if self.mode == "listeners":
            return f"{self.workers} listener{'s' if self.workers > 1 else ''}"
        return f"{self.workers} worker{'s' if self.workers > 1 else ''}"


@dataclass
class RequestRow:
    """What became of one request. Times are seconds since it was due; `due_s` is that moment in the run.

    sent_late_s:        how much later than due the client came to send it.
    first_audio_s:      first sample of audio (not headers, nor a WAV header).
    leading_silence_s:  silence at the beginning of the audio, before the first sample of AUDIBLE_LEVEL.
    arrivals:           (when, seconds of audio) of each piece.
    error:              None when all went well, else what kind of failure.
    underruns, late_s:  of a player that starts at the first audio; None unless the answer was streamed and complete.
    """

    index: int
    text: str
    seed: int
    due_s: float
    sent_late_s: float = 0.0
    first_audio_s: float | None = None
    total_s: float = 0.0
    audio_s: float = 0.0
    leading_silence_s: float = 0.0
    arrivals: list[tuple[float, float]] = field(default_factory=list)
    error: str | None = None
    message: str = ""
    underruns: int | None = None
    late_s: float | None = None


@dataclass(frozen=True)
class LoadResult:
    """client_lag_s: how late this process woke up from short sleeps, all the while; large values spoil the figures."""

    rows: list[RequestRow]
    client_lag_s: list[float]


def poisson_arrivals(rate_hz: float, seed: int) -> Iterator[float]:
    """Endless moments (seconds from the start) of a Poisson process: independent exponential gaps of mean 1/rate."""
    draw = random.Random(seed)
    moment_s = 0.0
    while True:
        moment_s += draw.expovariate(rate_hz)
        yield moment_s


async def run_load(target: Target, texts: Sequence[str], plan: LoadPlan, *, stream: bool) -> LoadResult:
    """Warm up, then run the plan. Request i says texts[i mod len(texts)]; `stream` says whether players can be timed.

    Raises LightTTSError when no warm-up request succeeds.
    """
    if plan.warmup_requests:
        # Other seeds than the measured requests: a server that keeps answers must not know them already.
        warmup = replace(
            plan, mode="closed", num_requests=plan.warmup_requests, duration_s=None, seed=plan.seed + 1_000_000
        )
        trial = _Load(target, texts, warmup, stream)
        await trial.run()
        if all(row.error is not None for row in trial.rows):
            row = trial.rows[0]
            raise LightTTSError(f"No warm-up request succeeded; nothing was measured. {row.error}: {row.message}")
    load = _Load(target, texts, plan, stream)
    lag_s: list[float] = []
    watch = asyncio.create_task(_watch_lag(lag_s))
    try:
        await load.run()
    finally:
        watch.cancel()
    return LoadResult(sorted(load.rows, key=lambda row: row.index), lag_s)


class _Load:
    """One run of one plan; lives on one event loop."""

    def __init__(self, target: Target, texts: Sequence[str], plan: LoadPlan, stream: bool) -> None:
        self.rows: list[RequestRow] = []
        self._target = target
        self._texts = texts
        self._plan = plan
        self._stream = stream
        self._start_s = time.perf_counter()
        self._indices = itertools.count() if plan.num_requests is None else iter(range(plan.num_requests))

    async def run(self) -> None:
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "closed": self._closed_loop,
            "open": self._open_loop,
            "listeners": self._listeners,
        }
        self._start_s = time.perf_counter()
        await loops[self._plan.mode]()

    def _now_s(self) -> float:
        return time.perf_counter() - self._start_s

    def _is_over(self, moment_s: float) -> bool:
        return self._plan.duration_s is not None and moment_s >= self._plan.duration_s

    async def _closed_loop(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._plan.workers):
                tasks.create_task(self._worker())

    async def _worker(self) -> None:
        while not self._is_over(self._now_s()):
            index = next(self._indices, None)
            if index is None:
                return
            row = await self._request(index, self._now_s())
            if row.error is not None:
                await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)

    async def _open_loop(self) -> None:
        arrivals = poisson_arrivals(self._plan.rate_hz, self._plan.seed)
        async with asyncio.TaskGroup() as tasks:
            for index, due_s in zip(self._indices, arrivals, strict=False):
                if self._is_over(due_s):
                    return
                await asyncio.sleep(max(0.0, due_s - self._now_s()))
                tasks.create_task(self._request(index, due_s))

    async def _listeners(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._plan.workers):
                tasks.create_task(self._listener(_JOIN_S * number / self._plan.workers))

    async def _listener(self, due_s: float) -> None:
        while True:
            await asyncio.sleep(max(0.0, due_s - self._now_s()))
            index = None if self._is_over(due_s) else next(self._indices, None)
            if index is None:
                return
            row = await self._request(index, due_s)
            playback = play(row.arrivals) if row.error is None else None
            due_s = self._now_s() + _PAUSE_AFTER_FAILURE_S
            if playback is not None:
                due_s = max(self._now_s(), row.due_s + playback.end_s)

    async def _request(self, index: int, due_s: float) -> RequestRow:
        request = SpeechRequest(self._texts[index % len(self._texts)], self._plan.seed + index)
        row = RequestRow(index, request.text, request.seed, due_s, sent_late_s=self._now_s() - due_s)
        try:
            async with asyncio.timeout(self._plan.timeout_s):
                await self._listen(request, row)
        except TimeoutError:
            row.error, row.message = "timeout", f"took longer than {self._plan.timeout_s:g} s"
        except RequestFailed as error:
            row.error, row.message = error.kind, str(error)
        row.total_s = self._now_s() - due_s
        playback = play(row.arrivals) if self._stream and row.error is None else None
        if playback is not None:
            row.underruns, row.late_s = playback.underruns, playback.late_s
        self.rows.append(row)
        return row

    async def _listen(self, request: SpeechRequest, row: RequestRow) -> None:
        is_silent = True
        async with aclosing(self._target.speak(request)) as pieces:
            async for samples, sample_rate_hz in pieces:
                arrived_s = self._now_s() - row.due_s
                if row.first_audio_s is None:
                    row.first_audio_s = arrived_s
                row.arrivals.append((arrived_s, samples.size / sample_rate_hz))
                row.audio_s += samples.size / sample_rate_hz
                if is_silent:
                    audible = np.flatnonzero(np.abs(samples) > AUDIBLE_LEVEL)
                    is_silent = not audible.size
                    row.leading_silence_s += (audible[0] if audible.size else samples.size) / sample_rate_hz
        if row.first_audio_s is None:
            raise RequestFailed("no audio", "the answer ended well but had no audio in it")


async def _watch_lag(lag_s: list[float]) -> None:
    while True:
        before_s = time.perf_counter()
        await asyncio.sleep(_LAG_PERIOD_S)
        lag_s.append(time.perf_counter() - before_s - _LAG_PERIOD_S)
