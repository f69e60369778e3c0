from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.acoustic import flow_runner
from light_tts.acoustic.flow import FlowHop
from light_tts.acoustic.flow_states import states_bytes
from light_tts.acoustic.flow_stream import FlowStream
from light_tts.errors import EngineFailure, InvalidRequest, TextTooLong
from light_tts.types import FlowPrompt
from tests.acoustic.tiny_flow import (
    LOOKAHEAD,
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


@layouts
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_hops_of_any_schedule_on_the_grid_join_to_the_whole(layout: str, data: st.DataObject) -> None:
    prompt = random_prompt(data.draw(st.integers(0, 22), label="prompt tokens"))
    tokens = random_tokens(data.draw(st.integers(1, 40), label="tokens"), seed=1)
    chunks = data.draw(st.lists(st.integers(1, 4), max_size=8), label="chunks per hop")
    budgets = data.draw(st.tuples(*[st.sampled_from([0, PLENTY])] * 2), label="prompt and stream bytes")
    decoder = new_decoder(layout, *budgets)
    for _ in range(2):  # the second stream finds the prompt's states
        stream = decoder.open(prompt, steps=STEPS)
        mel = torch.cat([decoder.decode([hop])[0] for hop in grid_hops(stream, tokens, chunks)], dim=1)
        assert_close(mel, whole(layout, prompt, tokens))
        stream.close()


@layouts
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_stream_does_not_feel_the_others_of_its_batch(layout: str, data: st.DataObject) -> None:
    chance = random.Random(data.draw(st.integers(0, 1 << 30), label="seed"))
    decoder = new_decoder(layout, chance.choice([0, PLENTY]), chance.choice([0, 400_000, PLENTY]))
    with pytest.MonkeyPatch.context() as patch:
        if chance.random() < 0.5:
            patch.setattr(flow_runner, "_MAX_PADDED_CPU", 1e9)
        queues, expected = [], []
        for number in range(chance.randint(2, 5)):
            prompt = random_prompt(chance.randint(0, 17), seed=chance.randint(0, 1))
            tokens = random_tokens(chance.randint(1, 30), seed=number)
            full_mask, steps = chance.random() < 0.2, chance.choice([2, 3])
            stream = decoder.open(prompt, steps=steps)
            chunks = [chance.randint(1, 3) for _ in range(chance.randint(0, 4))]
            hops = (
                [FlowHop(stream, tokens, 0, True, full_mask=True)] if full_mask else grid_hops(stream, tokens, chunks)
            )
            queues.append(hops)
            expected.append(whole(layout, prompt, tokens, full_mask=full_mask, steps=steps))
        pieces: list[list[torch.Tensor]] = [[] for _ in queues]
        while any(queues):
            turn = [n for n, queue in enumerate(queues) if queue and chance.random() < 0.8]
            for number, mel in zip(turn, decoder.decode([queues[n].pop(0) for n in turn]), strict=True):
                pieces[number].append(mel)
        for parts, mel in zip(pieces, expected, strict=True):
            assert_close(torch.cat(parts, dim=1), mel)
    assert decoder.stream_budget.used_bytes == 0


@layouts
def test_a_hop_off_the_grid_shows_its_last_chunk_incomplete_and_is_not_kept(layout: str) -> None:
    prompt, tokens = random_prompt(11), random_tokens(30, seed=3)
    plain, kept = new_decoder(layout, 0, 0), new_decoder(layout)
    fresh, stream = plain.open(prompt, steps=STEPS), kept.open(prompt, steps=STEPS)
    offset = 0
    for visible in (6, 9, 10, 17, 25):  # ends at 3, 6, 7, 14, 22 tokens after a prompt of 11: all off the grid
        expected = plain.decode([FlowHop(fresh, tokens[:visible], offset, is_final=False)])[0]
        actual = kept.decode([FlowHop(stream, tokens[:visible], offset, is_final=False)])[0]
        assert_close(actual, expected)
        assert actual.shape[1] == 2 * (visible - LOOKAHEAD - offset)
        offset = visible - LOOKAHEAD
    rest = kept.decode([FlowHop(stream, tokens, offset, is_final=True)])[0]
    assert_close(rest, whole(layout, prompt, tokens)[:, 2 * offset :])


@layouts
def test_a_hop_may_be_asked_for_again(layout: str) -> None:
    """The caller repeats a hop when a later stage failed; by then the stream has kept states beyond it."""
    prompt, tokens = random_prompt(11), random_tokens(30, seed=4)
    decoder = new_decoder(layout)
    stream = decoder.open(prompt, steps=STEPS)
    for hop in grid_hops(stream, tokens, [1, 2, 1]):
        first, again = decoder.decode([hop])[0], decoder.decode([hop])[0]
        assert_close(again, first)


@layouts
def test_only_new_tokens_are_computed_when_everything_before_is_kept(
    layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []

    def spy(net, rows, **options):
        computed.append([row.num_tokens for row in rows])
        return run_rows(net, rows, **options)

    run_rows = flow_runner.run_rows
    monkeypatch.setattr(flow_runner, "run_rows", spy)
    prompt, tokens = random_prompt(10), random_tokens(33, seed=5)
    decoder = new_decoder(layout)
    first, second = decoder.open(prompt, steps=STEPS), decoder.open(prompt, steps=STEPS)
    for hop in grid_hops(first, tokens, [1, 2]):
        decoder.decode([hop])
    assert computed == [[15], [10], [18]]  # the prompt rides with the first hop
    computed.clear()
    decoder.decode([grid_hops(second, tokens, [2])[0]])
    assert computed == [[5 + 10]]  # of the prompt, its first chunk is settled
    computed.clear()
    other = random_prompt(10, seed=9)
    decoder.decode([grid_hops(decoder.open(other, steps=STEPS), tokens, [1])[0] for _ in range(3)])
    assert computed == [[5], [10, 10, 10]]  # shared by three, so computed once ahead


@layouts
def test_closing_a_stream_frees_its_bytes_at_once(layout: str) -> None:
    decoder = new_decoder(layout)
    tokens = random_tokens(30, seed=6)
    streams = [decoder.open(random_prompt(12), steps=STEPS) for _ in range(3)]
    decoder.decode([grid_hops(stream, tokens, [2])[0] for stream in streams])
    held = [stream.bytes_held for stream in streams]
    assert min(held) > 0
    assert decoder.stream_budget.used_bytes == sum(held)
    streams[0].close()
    streams[0].close()
    assert decoder.stream_budget.used_bytes == sum(held[1:])
    assert streams[0].bytes_held == 0
    with pytest.raises(EngineFailure, match="closed"):
        decoder.decode([grid_hops(streams[0], tokens, [2])[0]])
    for stream in streams[1:]:
        decoder.decode([FlowHop(stream, tokens, 13, is_final=True)])
    assert decoder.stream_budget.used_bytes == 0, "a finished stream holds nothing"


@layouts
def test_a_failing_call_gives_its_reservations_back_and_may_be_repeated(
    layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, tokens = random_prompt(12), random_tokens(30, seed=7)
    decoder = new_decoder(layout)
    streams = [decoder.open(prompt, steps=STEPS) for _ in range(2)]
    hops = [grid_hops(stream, tokens, [2])[0] for stream in streams]
    with monkeypatch.context() as patch:
        patch.setattr(flow_runner, "run_rows", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("device lost")))
        with pytest.raises(RuntimeError, match="device lost"):
            decoder.decode(hops)
    assert decoder.stream_budget.used_bytes == 0
    for mel in decoder.decode(hops):
        assert_close(mel, whole(layout, prompt, tokens)[:, : mel.shape[1]])


@layouts
def test_the_prompt_cache_keeps_its_budget_and_what_is_in_use(layout: str) -> None:
    one = states_bytes(tiny_flow(layout), 10, STEPS)
    decoder = new_decoder(layout, prompt_bytes=2 * one)
    tokens = random_tokens(20, seed=8)
    prompts = [random_prompt(14, seed=seed) for seed in range(4)]

    def first_hop(prompt: FlowPrompt) -> FlowStream:
        stream = decoder.open(prompt, steps=STEPS)
        decoder.decode([grid_hops(stream, tokens, [1])[0]])
        return stream

    def cached() -> list[int]:
        return [number for number, prompt in enumerate(prompts) if (prompt.key, STEPS, 0.7) in decoder.prompts]

    user = first_hop(prompts[0])
    first_hop(prompts[1]).close()
    assert cached() == [0, 1]
    assert decoder.prompts.used_bytes == 2 * one
    second_user = first_hop(prompts[2])
    assert cached() == [0, 2], "the unused one goes, though another was used longer ago"
    refused = first_hop(prompts[3])
    assert cached() == [0, 2], "both in use: nothing can go"
    assert decoder.prompts.used_bytes <= 2 * one
    user.close()
    rest = decoder.decode([FlowHop(refused, tokens, 1, is_final=True)])[0]
    assert_close(rest, whole(layout, prompts[3], tokens)[:, 2:])
    assert second_user.bytes_held > 0


@layouts
def test_states_take_exactly_the_bytes_that_are_accounted(layout: str) -> None:
    decoder = new_decoder(layout)
    stream = decoder.open(random_prompt(0), steps=STEPS)
    decoder.decode([grid_hops(stream, random_tokens(30, seed=9), [3])[0]])
    (states,) = stream._own
    levels = (states.tokens, states.frames, states.estimator)
    tensors = [level.keys_values for level in levels]
    tensors += [tail for level in levels for tails in level.tails for tail in tails.values()]
    assert stream.bytes_held == sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@layouts
@pytest.mark.parametrize("full_mask", [False, True])
def test_a_prompt_mel_of_another_length_shifts_the_output(layout: str, full_mask: bool) -> None:
    """The utterance begins where the prompt's mel ends; the mel fills the condition's first frames."""
    tokens = random_tokens(20, seed=10)
    for frames in (16, 29):
        prompt = random_prompt(12, num_frames=frames)
        mel = whole(layout, prompt, tokens, full_mask=full_mask)
        assert mel.shape == (80, 2 * 32 - frames)
        decoder = new_decoder(layout)
        for _ in range(2):
            stream = decoder.open(prompt, steps=STEPS)
            tail = decoder.decode([FlowHop(stream, tokens, 8, is_final=True, full_mask=full_mask)])[0]
            assert_close(tail, mel[:, 16:])


@layouts
def test_no_tokens_are_no_frames(layout: str) -> None:
    decoder = new_decoder(layout)
    prompt = random_prompt(12)
    none = torch.zeros(0, dtype=torch.int64)
    hops = [
        FlowHop(decoder.open(prompt, steps=STEPS), none, 0, is_final=True, full_mask=full) for full in (True, False)
    ]
    hops.append(FlowHop(decoder.open(prompt, steps=STEPS), random_tokens(3, seed=0), 0, is_final=False))
    assert [tuple(mel.shape) for mel in decoder.decode(hops)] == [(80, 0)] * 3
    assert decoder.decode([]) == []


def test_what_cannot_be_computed_is_refused_before_any_work() -> None:
    decoder = new_decoder("cosyvoice3_tiny")
    stream = decoder.open(random_prompt(12), steps=STEPS)
    with pytest.raises(TextTooLong, match="15000"):
        decoder.decode([FlowHop(stream, torch.zeros(7489, dtype=torch.int64), 0, is_final=True)])
    with pytest.raises(InvalidRequest, match="400 codes"):
        decoder.decode([FlowHop(stream, torch.tensor([3, 400]), 0, is_final=True)])
    assert stream.offset_tokens == 0


@layouts
def test_guidance_and_steps_belong_to_the_stream(layout: str) -> None:
    prompt, tokens = random_prompt(12), random_tokens(12, seed=11)
    decoder = new_decoder(layout)
    options = [(2, 0.7), (3, 0.7), (3, 0.0), (3, 2.0)]
    streams = [decoder.open(prompt, steps=steps, guidance=guidance) for steps, guidance in options]
    together = decoder.decode([FlowHop(stream, tokens, 0, is_final=True) for stream in streams])
    for (steps, guidance), mel in zip(options, together, strict=True):
        alone = new_decoder(layout, 0, 0)
        stream = alone.open(prompt, steps=steps, guidance=guidance)
        assert_close(mel, alone.decode([FlowHop(stream, tokens, 0, is_final=True)])[0])
    differences = [float((together[0] - mel).abs().max()) for mel in together[1:]]
    assert min(differences) > 1e-3
    assert len(decoder.prompts) == len(options)


def test_a_voice_is_described_once_as_long_as_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, tokens = new_decoder("cosyvoice2_tiny", 0, 0), random_tokens(9, seed=1)
    net, described = decoder.net, list[int]()
    describe = type(net).speaker_vector

    def counted(self: object, speaker: torch.Tensor) -> torch.Tensor:
        described.append(len(speaker))
        return describe(net, speaker)

    monkeypatch.setattr(type(net), "speaker_vector", counted)
    monkeypatch.setattr("light_tts.acoustic.flow.MOST_SPEAKERS", 2)

    def speak(*seeds: int) -> list[torch.Tensor]:
        streams = [decoder.open(random_prompt(3, seed=seed), steps=STEPS) for seed in seeds]
        return decoder.decode([FlowHop(stream, tokens, 0, is_final=True) for stream in streams])

    alone = [speak(0)[0], speak(1)[0]]
    together = speak(0, 1, 0)
    assert described == [1, 1], "each by itself, and never again"
    for mel, expected in zip(together, [alone[0], alone[1], alone[0]], strict=True):
        assert_close(mel, expected)
    speak(2, 3)
    assert_close(speak(0)[0], alone[0])
    assert described == [1, 1, 1, 1, 1], "the oldest of more than two had gone"
    decoder.forget(decoder.prompts, decoder.stream_budget)
    assert_close(speak(0)[0], alone[0])
    assert len(described) == 6
