"""Segments of a request: run ahead, leave in order, die together. With a decoder that the test plays by hand."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from light_tts.acoustic.run import AcousticJob, ChunkSink
from light_tts.audio_stream import AudioStream
from light_tts.errors import EngineFailure
from light_tts.narration import MAX_SEGMENTS_AHEAD, Narration, mix_seed
from light_tts.types import FinishReason, FlowPrompt, TokenSink

PROMPT = FlowPrompt("none", torch.zeros(0, dtype=torch.int64), torch.zeros(0, 80), torch.zeros(192))


class Run:
    """Stands for an acoustic run; the test says what it speaks."""

    flow_s = vocoder_s = 0.0
    is_paused = False

    def __init__(self, job: AcousticJob, sink: ChunkSink) -> None:
        self.job, self.sink = job, sink
        self.tokens: list[int] = []
        self.is_cancelled = False
        self.has_ended = False

    def put(self, tokens: Any) -> None:
        self.tokens.extend(tokens)

    def end(self, reason: FinishReason) -> None:
        self.has_ended = True

    def fail(self, error: Exception) -> None:
        self.has_ended = True

    def cancel(self) -> None:
        self.is_cancelled = True


class Source:
    """Stands for a run of the language model."""

    busy_s = 0.0

    def __init__(self, sink: TokenSink, index: int) -> None:
        self.sink, self.index = sink, index
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True


class Decoder:
    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.times_woken = 0

    def open(self, job: AcousticJob, sink: ChunkSink) -> Run:
        self.runs.append(Run(job, sink))
        return self.runs[-1]

    def has_voice(self, run: Run) -> bool:
        return False

    def wake(self) -> None:
        self.times_woken += 1


class Stage:
    """A narration of `count` segments and everything around it."""

    def __init__(self, count: int, gap_samples: int = 0) -> None:
        self.decoder, self.sources = Decoder(), list[Source]()
        self.stream = AudioStream("test", timeout_s=10.0, max_pending_chunks=1 << 20)
        self.times_done = 0
        self.narration = Narration(
            self.stream,
            self.decoder,  # type: ignore[arg-type]
            self._done,
            gap_samples=gap_samples,
        )
        self.stream.on_cancel = self.narration.cancel
        self.narration.bind(AcousticJob(PROMPT, 5, 1))
        for _ in range(count):
            self.narration.add(self._start)
        self.narration.complete()

    def _done(self) -> None:
        self.times_done += 1

    def _start(self, sink: TokenSink, index: int) -> Source:
        self.sources.append(Source(sink, index))
        return self.sources[-1]

    def heard(self) -> list[float]:
        return [float(value) for chunk in self.stream for value in chunk.samples]


def test_the_tokens_of_all_segments_are_counted() -> None:
    stage = Stage(2)
    for number in range(2):
        stage.sources[number].sink.put([1, 2, 3])
        stage.sources[number].sink.put([4])
        stage.sources[number].sink.end(FinishReason.STOP)
        stage.decoder.runs[number].sink.end(FinishReason.STOP)
    assert stage.heard() == []
    assert stage.stream.stats.speech_tokens == 8


@given(st.integers(0, 7), st.integers(0, 1 << 30))
def test_audio_leaves_in_the_order_of_the_segments_whatever_is_ready_first(count: int, seed: int) -> None:
    chance = random.Random(seed)
    stage = Stage(count)
    plans = [[k + j / 100 for j in range(chance.randint(0, 4))] for k in range(count)]
    left = {k: list(plan) for k, plan in enumerate(plans)}
    while left:
        started = [k for k in left if k < len(stage.sources)]
        spoken = count - len(left)
        assert len(stage.sources) <= spoken + 1 + MAX_SEGMENTS_AHEAD, "no more run ahead than allowed"
        number = chance.choice(started)
        run, source = stage.decoder.runs[number], stage.sources[number]
        if not run.has_ended and chance.random() < 0.5:
            source.sink.end(FinishReason.STOP)
        elif left[number]:
            run.sink.put(np.array([left[number].pop(0)], np.float32))
        elif run.has_ended:
            del left[number]
            run.sink.end(FinishReason.STOP)
    assert stage.heard() == pytest.approx([value for plan in plans for value in plan])
    assert [source.index for source in stage.sources] == list(range(count))
    assert [run.job.seed for run in stage.decoder.runs] == [mix_seed(5, k) for k in range(count)]
    assert stage.times_done == 1


def test_the_next_segment_begins_when_the_one_before_has_all_its_tokens() -> None:
    stage = Stage(4)
    assert len(stage.sources) == 1
    stage.sources[0].sink.put([1, 2, 3])
    assert len(stage.sources) == 1
    stage.sources[0].sink.end(FinishReason.STOP)
    assert len(stage.sources) == 2


@pytest.mark.parametrize("how", ["cancel", "fail first", "fail later"])
def test_segments_die_together(how: str) -> None:
    stage = Stage(5)
    stage.sources[0].sink.end(FinishReason.STOP)
    stage.decoder.runs[1].sink.put(np.ones(3, np.float32))
    if how == "cancel":
        stage.stream.cancel()
        assert stage.heard() == []
    else:
        stage.decoder.runs[how == "fail later"].sink.fail(EngineFailure("broken"))
        with pytest.raises(EngineFailure, match="broken"):
            stage.heard()
    assert all(run.is_cancelled for run in stage.decoder.runs)
    assert all(source.is_aborted for source in stage.sources)
    assert stage.times_done == 1
    for source in stage.sources:
        source.sink.end(FinishReason.STOP)
    assert len(stage.sources) == 2, "nothing begins after the end"


def test_a_segment_cut_by_its_length_is_told() -> None:
    stage = Stage(2)
    for number, reason in enumerate((FinishReason.LENGTH, FinishReason.STOP)):
        stage.sources[number].sink.end(reason)
        stage.decoder.runs[number].sink.end(reason)
    assert stage.heard() == []
    assert stage.stream.stats.finish == "length"


@given(st.lists(st.integers(0, 2**62), min_size=2, max_size=50, unique=True))
def test_seeds_of_segments_and_requests_do_not_meet(seeds: list[int]) -> None:
    mixed = {mix_seed(seed, index) for seed in seeds for index in range(4)}
    assert len(mixed) == 4 * len(seeds)
    assert all(0 <= value < 2**63 for value in mixed)


def test_silence_separates_segments_and_nothing_else() -> None:
    stage = Stage(4, gap_samples=2)
    spoken = {0: [1.0, 2.0], 1: [], 2: [3.0], 3: [4.0]}
    for number in range(4):
        stage.sources[number].sink.end(FinishReason.STOP)
        if number == 2:  # two segments are ahead; their audio is held until the first has been heard
            for value in spoken[2]:
                stage.decoder.runs[2].sink.put(np.array([value], np.float32))
            for value in spoken[0]:
                stage.decoder.runs[0].sink.put(np.array([value], np.float32))
            for ended in range(3):
                stage.decoder.runs[ended].sink.end(FinishReason.STOP)
    stage.decoder.runs[3].sink.put(np.array(spoken[3], np.float32))
    stage.decoder.runs[3].sink.end(FinishReason.STOP)
    assert stage.heard() == [1.0, 2.0, 0.0, 0.0, 3.0, 0.0, 0.0, 4.0]


@pytest.mark.parametrize("how", ["spoken", "cancelled", "before"])
def test_whoever_asks_is_told_when_the_request_is_over(how: str) -> None:
    stage, told = Stage(1), list[str]()
    if how != "before":
        stage.narration.when_over(lambda: told.append(how))
        assert told == []
    if how == "cancelled":
        stage.stream.cancel()
    else:
        stage.sources[0].sink.end(FinishReason.STOP)
        stage.decoder.runs[0].sink.end(FinishReason.STOP)
    if how == "before":
        stage.narration.when_over(lambda: told.append(how))
    assert told == [how]
    assert stage.times_done == 1


def test_a_reader_wakes_the_decoder_only_when_a_run_waits_for_room() -> None:
    stage = Stage(1)
    stage.narration.wake()
    assert stage.decoder.times_woken == 0
    stage.decoder.runs[0].is_paused = True
    stage.narration.wake()
    assert stage.decoder.times_woken == 1
