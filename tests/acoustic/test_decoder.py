"""The decoder's thread: same audio in any company, chunks that join, nothing left behind, failures that stay alone."""

from __future__ import annotations

import functools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from light_tts.acoustic.call_log import CallLog
from light_tts.acoustic.decoder import AcousticDecoder
from light_tts.acoustic.express import Express
from light_tts.acoustic.flow import FlowDecoder, FlowHop
from light_tts.acoustic.flow_runner import PlainRunner
from light_tts.acoustic.pending_samples import Part, PendingSamples
from light_tts.acoustic.run import AcousticJob, AcousticRun
from light_tts.acoustic.stage_timer import StageTimer
from light_tts.acoustic.vocoder import Vocoder, VocoderJob
from light_tts.errors import EngineFailure, InvalidRequest, LightTTSError
from light_tts.gpu_turns import GpuTurns
from light_tts.settings import AcousticSettings
from light_tts.types import SAMPLES_PER_TOKEN, FinishReason
from tests.acoustic.tiny_models import (
    CHUNK,
    CODES,
    LAYOUTS,
    LOOKAHEAD,
    PLENTY,
    STEPS,
    prompt_of,
    tiny_flow,
    tiny_vocoder,
)

MEL_TOLERANCE = 1e-4
AUDIO_TOLERANCE = 1e-2  # the golden data's for a waveform: rounding of the pitch adds up in the phase
PATIENCE_S = 60.0

layouts = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tokens_of(count: int, seed: int) -> list[int]:
    return torch.randint(0, CODES, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


class Ear:
    """A ChunkSink that remembers; `room` chunks fit before it is read."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.chunks: list[np.ndarray] = []
        self.reason: FinishReason | None = None
        self.error: LightTTSError | None = None
        self.over = threading.Event()
        self.heard = threading.Event()

    @property
    def has_room(self) -> bool:
        return len(self.chunks) < self.room

    def put(self, samples: np.ndarray) -> None:
        assert not self.over.is_set(), "audio after the end"
        self.chunks.append(samples)
        self.heard.set()

    def end(self, reason: FinishReason) -> None:
        self.reason = reason
        self.over.set()

    def fail(self, error: LightTTSError) -> None:
        self.error = error
        self.over.set()

    def audio(self) -> np.ndarray:
        assert self.over.wait(PATIENCE_S), "the run does not end"
        assert self.error is None, self.error
        return np.concatenate([*self.chunks, np.zeros(0, np.float32)])


class KeepingFlow(FlowDecoder):
    """Also keeps the mel of every stream, so that it can be compared."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.mels: dict[object, list[torch.Tensor]] = {}
        self.batches: list[int] = []

    def decode(self, hops: list[FlowHop]) -> list[torch.Tensor]:  # type: ignore[override]
        self.batches.append(len(hops))
        results = super().decode(hops)
        for hop, mel in zip(hops, results, strict=True):
            self.mels.setdefault(hop.stream, []).append(mel.clone())
        return results


class ApartTimer(StageTimer):
    """As if a device computed while the host goes on."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))

    @property
    def is_apart(self) -> bool:
        return True


@contextmanager
def decoding(
    layout: str,
    *,
    prompt_bytes: int = PLENTY,
    stream_bytes: int = PLENTY,
    is_apart: bool = False,
    has_express: bool = False,
    **fields: object,
) -> Iterator[AcousticDecoder]:
    flow = KeepingFlow(tiny_flow(layout), prompt_cache_bytes=prompt_bytes, stream_cache_bytes=stream_bytes)
    settings = AcousticSettings(**fields)  # type: ignore[arg-type]
    express = None
    if has_express:
        express = Express(flow.beside(PlainRunner(flow.net)), Vocoder(tiny_vocoder(layout)), CallLog())
    decoder = AcousticDecoder(
        flow,
        Vocoder(tiny_vocoder(layout)),
        settings,
        chunk_tokens=CHUNK,
        lookahead_tokens=LOOKAHEAD,
        express=express,
    )
    if is_apart:
        for lane in decoder.lanes:
            lane.new_timer = ApartTimer
    decoder.start()
    try:
        yield decoder
    finally:
        decoder.close()


@dataclass(frozen=True)
class Speech:
    """What one run says; its audio must depend on nothing else."""

    prompt_tokens: int
    num_tokens: int
    seed: int
    stream: bool = True
    speed: float = 1.0

    def job(self) -> AcousticJob:
        prompt = prompt_of(self.prompt_tokens, self.seed % 2)
        return AcousticJob(prompt, self.seed, STEPS, speed=self.speed, stream=self.stream)

    def tokens(self) -> list[int]:
        return tokens_of(self.num_tokens, self.seed)


@dataclass
class Spoken:
    mel: torch.Tensor
    samples: np.ndarray
    chunks: list[int] = field(default_factory=list)


def feed(run: AcousticRun, tokens: list[int], sizes: list[int] | None = None) -> None:
    start = 0
    for size in sizes or []:
        run.put(tokens[start : start + size])
        start += size
    run.put(tokens[start:])
    run.end(FinishReason.STOP)


def heard(decoder: AcousticDecoder, run: AcousticRun, ear: Ear) -> Spoken:
    samples = ear.audio()
    flow = decoder.flow
    assert isinstance(flow, KeepingFlow)
    return Spoken(torch.cat(flow.mels[run.flow], dim=1), samples, [chunk.size for chunk in ear.chunks])


@functools.cache
def alone(layout: str, speech: Speech) -> Spoken:
    """The plain version: nothing kept, nobody else, the smallest hops."""
    with decoding(layout, prompt_bytes=0, stream_bytes=0, max_batch=1, max_hop_tokens=25) as decoder:
        ear = Ear()
        run = decoder.open(speech.job(), ear)
        feed(run, speech.tokens())
        return heard(decoder, run, ear)


def assert_same(actual: Spoken, expected: Spoken) -> None:
    assert actual.mel.shape == expected.mel.shape
    assert float((actual.mel - expected.mel).abs().max()) < MEL_TOLERANCE
    assert actual.samples.shape == expected.samples.shape
    assert float(np.abs(actual.samples - expected.samples).max()) < AUDIO_TOLERANCE


def assert_nothing_left(decoder: AcousticDecoder) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while decoder.num_runs:
        assert time.monotonic() < deadline_s, f"{decoder.num_runs} runs are still open"
        time.sleep(0.002)
    decoder.close()  # the last burial may still be on its way
    assert decoder.flow.stream_budget.used_bytes == 0
    assert all(entry.users == 0 for entry in decoder.flow.prompts._entries.values())


# invariant 1: the same audio alone or in a crowd


def a_speech(chance: random.Random) -> Speech:
    return Speech(
        prompt_tokens=chance.choice([0, 11, 28, 53]),
        num_tokens=chance.choice([1, 7, 24, 40, 66, 90]),
        seed=chance.randint(0, 5),
        stream=chance.random() < 0.8,
        speed=chance.choice([1.0, 1.0, 1.0, 1.3]),
    )


@layouts
@hypothesis_settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_a_run_sounds_the_same_among_fifteen_others_whatever_happens_to_them(layout: str, seed: int) -> None:
    chance = random.Random(seed)
    speeches = [a_speech(chance) for _ in range(16)]
    doomed = {number for number in range(16) if chance.random() < 0.25}
    with decoding(
        layout,
        prompt_bytes=chance.choice([0, 3_000_000, PLENTY]),
        stream_bytes=chance.choice([0, 3_000_000, PLENTY]),
        max_batch=chance.choice([1, 3, 16]),
        first_hop_tokens=chance.choice([8, 22, 25]),
        max_hop_tokens=chance.choice([25, 50, 100]),
        is_apart=chance.random() < 0.5,
        has_express=chance.random() < 0.5,
    ) as decoder:
        started: list[tuple[AcousticRun, Ear]] = []
        for speech in speeches:  # later ones arrive while earlier ones are being spoken
            ear = Ear()
            run = decoder.open(speech.job(), ear)
            started.append((run, ear))
            feed(run, speech.tokens(), [chance.randint(1, 30) for _ in range(chance.randint(0, 4))])
            if chance.random() < 0.3:
                time.sleep(chance.random() * 0.02)
            for victim in [number for number in doomed if number < len(started) and chance.random() < 0.3]:
                started[victim][0].cancel()
        for number in doomed:
            started[number][0].cancel()
        said = [heard(decoder, *each) for number, each in enumerate(started) if number not in doomed]
        assert_nothing_left(decoder)
    for number, spoken in zip(sorted(set(range(16)) - doomed), said, strict=True):
        assert_same(spoken, alone(layout, speeches[number]))


@layouts
def test_hops_of_many_streams_share_calls(layout: str) -> None:
    """The crowd above would prove little if every hop ran alone."""
    with decoding(layout) as decoder:
        ears = [Ear() for _ in range(8)]
        runs = [decoder.open(Speech(28, 40, k).job(), ear) for k, ear in enumerate(ears)]
        for k, run in enumerate(runs):
            feed(run, tokens_of(40, k))
        for ear in ears:
            ear.audio()
        flow = decoder.flow
        assert isinstance(flow, KeepingFlow)
        assert max(flow.batches) > 1
        assert sum(flow.batches) <= 16


# invariant 2: chunks join without a seam


@layouts
@pytest.mark.parametrize("prompt_tokens", [0, 11, 28])
def test_streamed_chunks_join_to_one_pass_over_the_whole(layout: str, prompt_tokens: int) -> None:
    tokens = tokens_of(130, seed=3)
    flow = FlowDecoder(tiny_flow(layout), prompt_cache_bytes=0, stream_cache_bytes=0)
    whole = flow.open(prompt_of(prompt_tokens), steps=STEPS)
    [mel] = flow.decode([FlowHop(whole, torch.tensor(tokens), 0, is_final=True)])
    with decoding(layout) as decoder:
        ear = Ear()
        run = decoder.open(AcousticJob(prompt_of(prompt_tokens), 7, STEPS), ear)
        run.put(tokens[:60])
        assert ear.heard.wait(PATIENCE_S)
        feed(run, tokens[60:], [10, 20])
        spoken = heard(decoder, run, ear)
        assert len(spoken.chunks) > 1
        assert spoken.samples.size == 130 * SAMPLES_PER_TOKEN
        assert float((spoken.mel - mel).abs().max()) < MEL_TOLERANCE
    vocoder = Vocoder(tiny_vocoder(layout))
    if vocoder.net.is_causal:  # the symmetric one cross-fades, which is tested where it is done
        [samples] = vocoder.decode([VocoderJob(vocoder.open(7), (mel,), is_final=True)])
        assert float((samples - torch.from_numpy(spoken.samples)).abs().max()) < AUDIO_TOLERANCE


@layouts
@pytest.mark.parametrize("num_tokens", [0, 1, 22, 25, 47])
@pytest.mark.parametrize("stream", [True, False])
def test_every_length_has_its_samples(layout: str, num_tokens: int, stream: bool) -> None:
    with decoding(layout) as decoder:
        ear = Ear()
        run = decoder.open(AcousticJob(prompt_of(28), 1, STEPS, stream=stream), ear)
        feed(run, tokens_of(num_tokens, 1))
        assert ear.audio().size == num_tokens * SAMPLES_PER_TOKEN
        assert ear.reason is FinishReason.STOP


@layouts
def test_a_whole_answer_under_the_mask_of_streams_is_what_a_stream_says(layout: str) -> None:
    streamed = Speech(prompt_tokens=53, num_tokens=66, seed=3)
    job = replace(streamed.job(), stream=False)
    with decoding(layout, whole_answer_mask="chunk") as decoder:
        for _ in range(2):  # the second time the voice's states are there
            ear = Ear()
            run = decoder.open(job, ear)
            feed(run, streamed.tokens())
            spoken = heard(decoder, run, ear)
            assert spoken.mel.shape == alone(layout, streamed).mel.shape
            assert float((spoken.mel - alone(layout, streamed).mel).abs().max()) < MEL_TOLERANCE
        assert decoder.flow.prompts.num_tokens(run.flow.prompt_key) > 0


# invariant 3: nothing leaks


@layouts
@hypothesis_settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_cancelling_at_any_moment_frees_everything(layout: str, seed: int) -> None:
    chance = random.Random(seed)
    with decoding(layout) as decoder:
        runs = []
        for _ in range(6):
            ear = Ear(room=chance.choice([1, 1 << 30]))
            run = decoder.open(a_speech(chance).job(), ear)
            runs.append((run, ear))
            run.put(tokens_of(chance.randint(0, 80), 0))
            if chance.random() < 0.3:
                run.end(FinishReason.STOP)
            if chance.random() < 0.3:
                run.fail(EngineFailure("no more tokens"))
            time.sleep(chance.random() * 0.01)
        for run, _ in runs:
            run.cancel()
            if chance.random() < 0.5:
                time.sleep(chance.random() * 0.01)
        assert_nothing_left(decoder)
        for run, ear in runs:
            assert run.flow.is_closed
            assert not run.vocoder.is_open
            count = len(ear.chunks)
            run.put([1] * 50)
            assert len(ear.chunks) == count


@layouts
def test_a_cancelled_run_says_nothing_more_and_the_others_go_on(layout: str) -> None:
    speech = Speech(28, 90, 2)
    with decoding(layout) as decoder:
        gone, stays = Ear(), Ear()
        first, second = decoder.open(speech.job(), gone), decoder.open(speech.job(), stays)
        first.put(speech.tokens()[:30])
        assert gone.heard.wait(PATIENCE_S)
        first.cancel()
        count = len(gone.chunks)
        feed(first, speech.tokens()[30:])
        feed(second, speech.tokens())
        assert_same(heard(decoder, second, stays), alone(layout, speech))
        assert len(gone.chunks) <= count + 1  # a hop may have been running
        assert not gone.over.is_set()
        assert_nothing_left(decoder)


# invariant 4: bounded


def test_a_slow_reader_pauses_its_own_run_only() -> None:
    slow_speech, speech = Speech(28, 190, 1), Speech(28, 90, 2)
    with decoding("cosyvoice3_tiny", max_hop_tokens=25) as decoder:
        slow, quick = Ear(room=2), Ear()
        paused, run = decoder.open(slow_speech.job(), slow), decoder.open(speech.job(), quick)
        feed(paused, slow_speech.tokens())
        feed(run, speech.tokens())
        assert_same(heard(decoder, run, quick), alone("cosyvoice3_tiny", speech))
        decoder.wake()
        time.sleep(0.05)
        assert len(slow.chunks) == 2
        slow.room = 1 << 30
        decoder.wake()
        assert_same(heard(decoder, paused, slow), alone("cosyvoice3_tiny", slow_speech))


def test_states_stay_within_their_budgets() -> None:
    with decoding("cosyvoice3_tiny", prompt_bytes=2_000_000, stream_bytes=2_000_000) as decoder:
        most = [0, 0]
        decode = decoder.flow.decode

        def watched(hops: list[FlowHop]) -> list[torch.Tensor]:
            results = decode(hops)
            most[0] = max(most[0], decoder.flow.prompts.used_bytes)
            most[1] = max(most[1], decoder.flow.stream_budget.used_bytes)
            return results

        decoder.flow.decode = watched  # type: ignore[assignment, method-assign]
        ears = [Ear() for _ in range(10)]
        for k, ear in enumerate(ears):
            feed(decoder.open(Speech(28 + 25 * (k % 4), 120, k).job(), ear), tokens_of(120, k))
        for ear in ears:
            ear.audio()
        assert 0 < most[0] <= 2_000_000
        assert 0 < most[1] <= 2_000_000


# invariant 5: one bad run hurts nobody else


@layouts
@pytest.mark.parametrize("stage", ["flow", "vocoder after it has begun", "tokens", "sink", "speech"])
def test_a_failing_run_ends_alone_and_the_others_sound_as_ever(
    layout: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeches = [Speech(28, 90, k, speed=1.3 if k == 2 else 1.0) for k in range(5)]
    expected = [alone(layout, speech) for speech in speeches]
    with decoding(layout) as decoder:
        ears = [Ear() for _ in speeches]
        runs = [decoder.open(speech.job(), ear) for speech, ear in zip(speeches, ears, strict=True)]
        bad, bad_ear = runs[1], ears[1]
        error: type[LightTTSError] = EngineFailure
        tokens = [speech.tokens() for speech in speeches]
        if stage == "flow":
            fail_with(decoder, "flow", bad.flow, before=True)
        elif stage == "vocoder after it has begun":
            fail_with(decoder, "vocoder", bad.vocoder, before=False)
        elif stage == "tokens":
            tokens[1][40] = CODES + 5
            error = InvalidRequest
        elif stage == "sink":
            monkeypatch.setattr(bad_ear, "put", lambda samples: 1 / 0)
        for run, codes in zip(runs, tokens, strict=True):
            run.put(codes[:60])
        if stage == "speech":
            bad.fail(EngineFailure("the language model gave up"))
        for run, codes in zip(runs, tokens, strict=True):
            feed(run, codes[60:])
        for number in (0, 2, 3, 4):
            assert_same(heard(decoder, runs[number], ears[number]), expected[number])
        assert bad_ear.over.wait(PATIENCE_S)
        assert isinstance(bad_ear.error, error)
        assert decoder.is_alive
        assert_nothing_left(decoder)


def fail_with(decoder: AcousticDecoder, stage: str, stream: object, *, before: bool) -> None:
    """Calls of a stage that this stream takes part in raise, before or after the work was done."""
    owner = getattr(decoder, stage)
    name = "decode" if before else "_decode_causal" if owner.net.is_causal else "_decode_overlapping"
    plain = getattr(owner, name)

    def spoiled(jobs: list[FlowHop] | list[VocoderJob]) -> list[torch.Tensor]:
        results = None if before else plain(jobs)
        if any(job.stream is stream for job in jobs):
            raise RuntimeError("spoiled")
        return plain(jobs) if results is None else results

    setattr(owner, name, spoiled)


def test_a_listener_that_fails_at_the_end_does_not_stop_the_decoder() -> None:
    speech = Speech(0, 30, 1)
    with decoding("cosyvoice3_tiny") as decoder:
        broken, fine = Ear(), Ear()
        broken.end = lambda reason: 1 / 0  # type: ignore[assignment, return-value, method-assign]
        feed(decoder.open(speech.job(), broken), speech.tokens())
        run = decoder.open(speech.job(), fine)
        feed(run, speech.tokens())
        assert_same(heard(decoder, run, fine), alone("cosyvoice3_tiny", speech))


def test_when_the_thread_dies_all_runs_are_told_and_no_new_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with decoding("cosyvoice3_tiny") as decoder:
        ears = [Ear() for _ in range(3)]
        runs = [decoder.open(Speech(0, 40, k).job(), ear) for k, ear in enumerate(ears)]
        monkeypatch.setattr(decoder.main, "_launch", lambda work: 1 / 0)
        runs[0].put(tokens_of(40, 0))
        for ear in ears:
            assert ear.over.wait(PATIENCE_S)
            assert isinstance(ear.error, EngineFailure)
        assert not decoder.is_alive
        with pytest.raises(EngineFailure):
            decoder.open(Speech(0, 40, 9).job(), Ear())


def test_closing_fails_what_is_open() -> None:
    with decoding("cosyvoice3_tiny") as decoder:
        ear = Ear()
        decoder.open(Speech(28, 40, 1).job(), ear).put([1, 2, 3])
    assert ear.over.is_set()
    assert isinstance(ear.error, EngineFailure)
    assert decoder.num_runs == 0


# a device that computes while the host goes on


class Device:
    """Writes down what the decoder does; samples are there when `may_go_on` is set."""

    def __init__(self, decoder: AcousticDecoder) -> None:
        self.log: list[str] = []
        self.may_go_on = threading.Event()
        self.is_lost = False
        self._launch = decoder.vocoder.launch
        decoder.vocoder.launch = self.launch  # type: ignore[method-assign]

    def launch(self, jobs: list[VocoderJob]) -> list[PendingSamples]:
        self.log.append("launch")
        pending = self._launch(jobs)
        return [PendingSamples([Part(samples.num_samples, lambda s=samples: self.fetch(s))]) for samples in pending]

    def fetch(self, samples: PendingSamples) -> torch.Tensor:
        self.log.append("fetch")
        assert self.may_go_on.wait(PATIENCE_S)
        if self.is_lost:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return samples.fetch()


@contextmanager
def overlapping(layout: str, **fields: object) -> Iterator[tuple[AcousticDecoder, Device]]:
    with (
        pytest.MonkeyPatch.context() as patch,
        decoding(layout, is_apart=True, max_batch=1, max_hop_tokens=25, first_hop_tokens=22, **fields) as decoder,
    ):
        patch.setattr("light_tts.acoustic.lane.FEW_HOPS", 1)
        device = Device(decoder)
        decoder.main._turns = GpuTurns(28)
        try:
            yield decoder, device
        finally:
            device.may_go_on.set()


def logged(device: Device, count: int) -> list[str]:
    deadline_s = time.monotonic() + PATIENCE_S
    while len(device.log) < count:
        assert time.monotonic() < deadline_s, device.log
        time.sleep(0.002)
    return device.log[:count]


@layouts
def test_the_next_call_is_launched_before_the_audio_of_the_last_is_handed_over(layout: str) -> None:
    speeches = [Speech(0, 66, seed) for seed in range(2)]
    with overlapping(layout) as (decoder, device):
        ears = [Ear() for _ in speeches]
        runs = [decoder.open(speech.job(), ear) for speech, ear in zip(speeches, ears, strict=True)]
        for run, speech in zip(runs, speeches, strict=True):
            feed(run, speech.tokens())
        assert logged(device, 3) == ["launch", "launch", "fetch"]
        assert decoder.main._turns.serves_first_audio
        assert not any(ear.chunks for ear in ears)
        device.may_go_on.set()
        said = [heard(decoder, *each) for each in zip(runs, ears, strict=True)]
        assert_nothing_left(decoder)
        assert not decoder.main._turns.serves_first_audio
    for spoken, speech in zip(said, speeches, strict=True):
        assert_same(spoken, alone(layout, speech))


def test_a_stream_by_itself_gets_its_audio_before_anything_else_is_done() -> None:
    with overlapping("cosyvoice3_tiny") as (decoder, device):
        run = decoder.open(Speech(0, 66, 1).job(), Ear())
        feed(run, Speech(0, 66, 1).tokens())
        assert logged(device, 2) == ["launch", "fetch"]


def test_a_call_of_few_hops_is_handed_over_before_the_next_is_launched() -> None:
    with decoding("cosyvoice3_tiny", is_apart=True, max_batch=1, max_hop_tokens=25, first_hop_tokens=22) as decoder:
        device = Device(decoder)
        try:
            for seed in range(2):
                feed(decoder.open(Speech(0, 66, seed).job(), Ear()), tokens_of(66, seed))
            assert logged(device, 2) == ["launch", "fetch"]
        finally:
            device.may_go_on.set()


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_a_run_that_ends_while_it_is_computed_gets_nothing_any_more(how: str) -> None:
    speech = Speech(0, 66, 1)
    with overlapping("cosyvoice2_tiny") as (decoder, device):
        ended, other = Ear(), Ear()
        run = decoder.open(Speech(0, 40, 0).job(), ended)
        second = decoder.open(speech.job(), other)
        feed(run, Speech(0, 40, 0).tokens())
        feed(second, speech.tokens())
        logged(device, 3)
        if how == "cancelled":
            run.cancel()
        else:
            run.fail(EngineFailure("The language model gave up."))
        device.may_go_on.set()
        spoken = heard(decoder, second, other)
        assert_nothing_left(decoder)
        assert_same(spoken, alone("cosyvoice2_tiny", speech))
        assert len(ended.chunks) <= 1
        assert (ended.error is None) is (how == "cancelled")


def test_a_device_that_is_lost_while_it_computes_ends_the_thread() -> None:
    with overlapping("cosyvoice3_tiny") as (decoder, device):
        ears = [Ear() for _ in range(2)]
        for seed, ear in enumerate(ears):
            feed(decoder.open(Speech(0, 66, seed).job(), ear), tokens_of(66, seed))
        logged(device, 3)
        device.is_lost = True
        device.may_go_on.set()
        for ear in ears:
            assert ear.over.wait(PATIENCE_S)
            assert isinstance(ear.error, EngineFailure)
            assert not ear.chunks
        assert not decoder.is_alive
        assert not decoder.main._turns.serves_first_audio
