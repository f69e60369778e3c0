"""Two lanes: who goes where, that one does not wait for the other, and that both end together."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from light_tts.acoustic.call_log import CallLog, LoggedCall
from light_tts.acoustic.decoder import AcousticDecoder
from light_tts.acoustic.express import express_beside
from light_tts.acoustic.flow import FlowDecoder
from light_tts.acoustic.flow_graphs import PagedRunner
from light_tts.acoustic.flow_runner import PlainRunner
from light_tts.acoustic.open_runs import OpenRuns
from light_tts.acoustic.vocoder_pool import StatePool
from light_tts.errors import StageLost
from light_tts.kernels.flow_kernels import plain_kernels
from light_tts.settings import AcousticSettings
from light_tts.types import FinishReason
from tests.acoustic.test_decoder import (
    PATIENCE_S,
    Ear,
    Speech,
    alone,
    assert_nothing_left,
    assert_same,
    decoding,
    feed,
    heard,
    tokens_of,
)
from tests.acoustic.tiny_models import PLENTY, tiny_flow, tiny_vocoder

LAYOUT = "cosyvoice3_tiny"
FIRST_HOP = 30  # tokens that are enough for a first hop, lookahead included
KNOWN = Speech(53, 66, 1)


class Gate:
    """Holds up the calls of one lane; `is_in` while one waits."""

    def __init__(self, flow: FlowDecoder) -> None:
        self.is_in, self._open = threading.Event(), threading.Event()
        self.streams: list[object] = []
        self._decode = flow.decode
        flow.decode = self._hold  # type: ignore[method-assign, assignment]

    def _hold(self, hops):
        self.streams += [hop.stream for hop in hops]
        self.is_in.set()
        assert self._open.wait(PATIENCE_S)
        return self._decode(hops)

    def open(self) -> None:
        self._open.set()


class Watch:
    """Writes down whose hops a lane computed."""

    def __init__(self, flow: FlowDecoder) -> None:
        self.streams: list[object] = []
        decode = flow.decode

        def watched(hops):
            self.streams += [hop.stream for hop in hops]
            return decode(hops)

        flow.decode = watched  # type: ignore[method-assign, assignment]


@contextmanager
def two_lanes() -> Iterator[tuple[AcousticDecoder, FlowDecoder, FlowDecoder]]:
    """A decoder that knows the voice of KNOWN, and the flows of its lanes; a run is open that does nothing."""
    with decoding(LAYOUT, has_express=True) as decoder:
        idle = decoder.open(Speech(78, 1, 4).job(), Ear())
        speak(decoder, KNOWN)
        main, express = (lane.flow for lane in decoder.lanes)
        yield decoder, main, express
        idle.cancel()
        assert_nothing_left(decoder)


def speak(decoder, speech):
    ear = Ear()
    run = decoder.open(speech.job(), ear)
    feed(run, speech.tokens())
    return heard(decoder, run, ear)


def test_a_first_hop_is_heard_while_the_main_lane_is_busy_and_the_rest_follows_there() -> None:
    with two_lanes() as (decoder, main, _):
        gate = Gate(main)
        feed(decoder.open(Speech(28, 40, 0).job(), Ear()), tokens_of(40, 0))  # of an unknown voice
        assert gate.is_in.wait(PATIENCE_S)
        ear = Ear()
        run = decoder.open(KNOWN.job(), ear)
        feed(run, KNOWN.tokens())
        assert ear.heard.wait(PATIENCE_S)
        assert run.flow not in gate.streams
        assert decoder.busy_since_s is not None
        gate.open()
        assert_same(heard(decoder, run, ear), alone(LAYOUT, KNOWN))
        assert run.flow in gate.streams


@pytest.mark.parametrize(
    "speech",
    [Speech(28, 40, 0), Speech(53, 66, 1, speed=1.3), Speech(53, 66, 1, stream=False)],
    ids=["unknown voice", "other speed", "whole answer"],
)
def test_what_is_not_a_short_first_hop_in_a_known_voice_is_the_main_lanes(speech: Speech) -> None:
    with two_lanes() as (decoder, _, express):
        watch = Watch(express)
        assert_same(speak(decoder, speech), alone(LAYOUT, speech))
        assert watch.streams == []


@pytest.mark.parametrize("change", ["comes", "leaves", "is cancelled"])
def test_lanes_look_again_when_the_number_of_runs_changes(change: str) -> None:
    """It decides which of them serves a first hop that both have seen before."""
    runs, wanted, looks, taken = OpenRuns(express_streams=9), 4 if change == "comes" else 2, [], []

    def choose(there, now_s, *, is_idle):
        looks.append(len(there))
        return ([("run", "hop")], None) if len(there) == wanted else ([], None)

    def a_run(key):
        return SimpleNamespace(
            key=key, is_dead=False, is_cancelled=True, is_free_for=lambda share: True, close=lambda: None
        )

    open_runs = [a_run(key) for key in range(3)]
    for run in open_runs:
        runs.add(run)
    share = SimpleNamespace(is_express=True, choose=choose, begin=lambda work: None)
    thread = threading.Thread(target=lambda: taken.append(runs.take(share, is_idle=True)))
    thread.start()
    while not looks:
        time.sleep(0.001)
    if change == "comes":
        runs.add(a_run(3))
    elif change == "leaves":
        runs.end(open_runs[0], None)
    else:  # and is buried by the other lane
        open_runs[0].is_dead = True
        runs.take(SimpleNamespace(is_express=False, choose=lambda *_, **__: ([], None)), is_idle=False)
    thread.join(PATIENCE_S)
    assert taken == [[("run", "hop")]]


def test_who_needs_states_that_the_main_lane_is_computing_waits_for_them() -> None:
    new = Speech(28, 40, 0)
    with two_lanes() as (decoder, main, express):
        watch = Watch(express)
        entered, may_leave = threading.Event(), threading.Event()
        decode = main.decode

        def decode_and_wait(hops):
            results = decode(hops)  # the voice's states are in the cache now, as far as the host knows
            entered.set()
            assert may_leave.wait(PATIENCE_S)
            return results

        main.decode = decode_and_wait  # type: ignore[method-assign, assignment]
        ears = [Ear(), Ear()]
        first = decoder.open(new.job(), ears[0])
        feed(first, new.tokens())
        assert entered.wait(PATIENCE_S)
        assert decoder.has_voice(first)
        second = decoder.open(new.job(), ears[1])
        feed(second, new.tokens())
        known = decoder.open(KNOWN.job(), known_ear := Ear())
        feed(known, KNOWN.tokens())
        assert known_ear.heard.wait(PATIENCE_S)  # the express lane has looked at all of them
        assert second.flow not in watch.streams
        may_leave.set()
        for run, ear in ((first, ears[0]), (second, ears[1])):
            assert_same(heard(decoder, run, ear), alone(LAYOUT, new))


def test_the_main_lane_leaves_a_run_alone_while_the_express_lane_computes_it() -> None:
    with two_lanes() as (decoder, main, express):
        gate, watch = Gate(express), Watch(main)
        ears = [Ear(), Ear()]
        runs = [decoder.open(KNOWN.job(), ear) for ear in ears]
        feed(runs[0], KNOWN.tokens())
        assert gate.is_in.wait(PATIENCE_S)
        runs[0].cancel()
        other = Speech(28, 40, 0)
        assert_same(speak(decoder, other), alone(LAYOUT, other))  # the main lane has looked, and more than once
        assert not runs[0].flow.is_closed
        assert runs[0].flow not in watch.streams
        gate.open()
        feed(runs[1], KNOWN.tokens())
        assert_same(heard(decoder, runs[1], ears[1]), alone(LAYOUT, KNOWN))
        assert runs[0].flow.is_closed
        assert not ears[0].chunks


@pytest.mark.parametrize("dying", [0, 1], ids=["main", "express"])
def test_when_one_lane_dies_the_other_ends_and_both_start_again(dying: int) -> None:
    deaths = []
    with two_lanes() as (decoder, _, _):
        died = threading.Event()
        decoder.on_death = lambda: (deaths.append(decoder.error), died.set())
        lane = decoder.lanes[dying]
        launch = lane._launch
        lane._launch = lambda work: 1 / 0  # type: ignore[method-assign]
        speech = KNOWN if dying else Speech(28, 40, 0)
        ears = [Ear(), Ear()]
        waiting = decoder.open(KNOWN.job(), ears[0])
        feed(decoder.open(speech.job(), ears[1]), speech.tokens())
        assert died.wait(PATIENCE_S)
        for ear in ears:
            assert ear.over.wait(PATIENCE_S)
            assert isinstance(ear.error, StageLost)
        assert waiting.flow.is_closed
        assert not decoder.is_alive
        with pytest.raises(StageLost):
            decoder.open(KNOWN.job(), Ear())
        decoder.join()
        lane._launch = launch  # type: ignore[method-assign]
        decoder.start()
        assert decoder.lanes[0].flow.prompts is decoder.lanes[1].flow.prompts
        assert_same(speak(decoder, KNOWN), alone(LAYOUT, KNOWN))
        assert_same(speak(decoder, KNOWN), alone(LAYOUT, KNOWN))
    assert len(deaths) == 1
    assert isinstance(deaths[0], ZeroDivisionError)


def test_a_hop_that_fails_on_the_express_lane_ends_its_run_alone() -> None:
    with two_lanes() as (decoder, _, express):
        decode, broken = express.decode, []

        def decode_or_raise(hops):
            if any(hop.stream in broken for hop in hops):
                raise RuntimeError("injected")
            return decode(hops)

        express.decode = decode_or_raise  # type: ignore[method-assign, assignment]
        ears = [Ear(), Ear()]
        runs = [decoder.open(KNOWN.job(), ear) for ear in ears]
        broken.append(runs[0].flow)
        for run in runs:
            feed(run, KNOWN.tokens())
        assert ears[0].over.wait(PATIENCE_S)
        assert ears[0].error is not None
        assert_same(heard(decoder, runs[1], ears[1]), alone(LAYOUT, KNOWN))


def test_pages_and_slots_of_who_has_left_are_kept_while_a_call_goes_on() -> None:
    log = CallLog()
    net = tiny_flow(LAYOUT)
    runner = PagedRunner(net, cache_bytes=1 << 24, steps=2, kernels=plain_kernels(), most_graphs=0, calls=log)
    pages, slots = runner.pool, StatePool({"mel": ((3,), torch.float32)}, 2, torch.device("cpu"), log)
    num_pages = pages.num_free
    call = log.begin()
    states, seat = pages.allocate(pages.chunk_tokens), slots.open()
    [slot] = slots.seat([seat])
    del states
    seat.close()
    assert pages.num_free == num_pages - 1
    assert slots.seat([slots.open()]) != [slot]
    call.end()
    assert pages.num_free == num_pages
    assert slots.seat([slots.open()]) == [slot]


def test_a_runner_beside_another_shares_its_pages_and_nothing_else() -> None:
    net = tiny_flow(LAYOUT)
    runner = PagedRunner(net, cache_bytes=1 << 26, steps=2, kernels=plain_kernels(), most_graphs=0)
    beside = runner.beside(max_rows=4, most_chunks=2)
    assert beside.pool is runner.pool
    assert beside._inputs is not runner._inputs
    assert beside._schedule is not runner._schedule
    sizes = beside.sizes(4)
    assert {(size.rows, size.chunks) for size in sizes} == {(rows, chunks) for rows in (1, 2, 4) for chunks in (1, 2)}
    assert all(beside._inputs.holds(size) for size in sizes)
    flow = FlowDecoder(net, prompt_cache_bytes=PLENTY, stream_cache_bytes=PLENTY, runner=runner)
    other = flow.beside(beside)
    with decoding(LAYOUT) as decoder:  # streams move from one to the other
        mine = Speech(28, 90, 3)
        ear = Ear()
        decoder.main.flow.runner = runner
        run = decoder.open(mine.job(), ear)
        run.put(mine.tokens()[:FIRST_HOP])
        assert ear.heard.wait(PATIENCE_S)
        deadline_s = time.monotonic() + PATIENCE_S
        while decoder.main.busy_since_s is not None:
            assert time.monotonic() < deadline_s
            time.sleep(0.002)
        decoder.main.flow.runner = beside
        run.put(mine.tokens()[FIRST_HOP:])
        run.end(FinishReason.STOP)
        assert_same(heard(decoder, run, ear), alone(LAYOUT, mine))
    assert other.prompts is flow.prompts


def test_without_recorded_calls_there_is_no_express_lane() -> None:
    net = tiny_flow(LAYOUT)
    flow = FlowDecoder(net, prompt_cache_bytes=0, stream_cache_bytes=0, runner=PlainRunner(net))
    with decoding(LAYOUT) as decoder:
        assert express_beside(flow, decoder.vocoder, CallLog(), AcousticSettings()) is None
        assert len(decoder.lanes) == 1
    assert tiny_vocoder(LAYOUT) is decoder.vocoder.net


def test_nobody_loses_a_slot_whose_call_goes_on() -> None:
    log = CallLog()
    slots = StatePool({"mel": ((3,), torch.float32)}, 3, torch.device("cpu"), log)
    long, short = slots.open(), slots.open()

    def begin_elsewhere() -> None:
        calls.append(log.begin())
        slots.seat([long])

    calls: list[LoggedCall] = []
    thread = threading.Thread(target=begin_elsewhere)
    thread.start()
    thread.join()
    call = log.begin()
    slots.seat([short])
    call.end()
    log.begin()
    newcomers = [slots.open(), slots.open()]
    slots.seat(newcomers)
    assert (long.slot is None, short.slot is None) == (False, True)
    assert short.parked is not None
