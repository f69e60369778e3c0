"""Hops of one stream on a virtual clock: how settings change the number and the moment of its chunks."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from light_tts.acoustic.choice import choose_hops, hop_plan_for
from light_tts.acoustic.run import AcousticJob, AcousticRun
from light_tts.acoustic.stage_costs import CostTable
from light_tts.settings import AcousticSettings
from light_tts.types import SAMPLES_PER_TOKEN, FinishReason

TOKEN_S = 0.005  # a language model that is much faster than speech
CALL_S = 0.02
COSTS = CostTable([(1, 50, CALL_S), (1, 200, CALL_S), (16, 200, 2 * CALL_S)])


class Ears:
    has_room = True


def open_run(settings, key=0, num_streams=1, prompt_tokens=None, stream=True):
    if prompt_tokens is None:
        prompt_tokens = 100 - settings.first_hop % 25  # as voices are aligned
    job = AcousticJob(SimpleNamespace(tokens=np.zeros(prompt_tokens)), seed=0, flow_steps=10, stream=stream)
    plan = hop_plan_for(job, settings, COSTS, num_streams=num_streams, chunk_tokens=25, lookahead_tokens=3)
    flow = SimpleNamespace(kept_tokens=10**9)
    return AcousticRun(key, job, Ears(), plan, flow, None, threading.Condition(), opened_s=0.0)


def play(settings, num_tokens, others=()):
    """(tokens of each chunk, when each was there) of a stream whose tokens come every 5 ms."""
    run = open_run(settings)
    runs = {run.key: run, **{other.key: other for other in others}}
    chunks, at_s, now_s = [], [], 0.0
    while not run.plan.is_finished:
        assert now_s < 60.0, "the stream does not end"
        due = min(num_tokens, int(now_s / TOKEN_S + 1e-9))
        run.put([0] * (due - len(run.tokens)))
        if due == num_tokens:
            run.reason = FinishReason.STOP
        work, recheck_s = choose_hops(runs, COSTS, settings, now_s)
        if not work:
            now_s = min((due + 1) * TOKEN_S, now_s + max(1e-6, recheck_s or 1.0))
            continue
        [(_, hop)] = work
        now_s += CALL_S
        run.served(hop, hop.hop_tokens * SAMPLES_PER_TOKEN, now_s)
        chunks.append(hop.hop_tokens)
        at_s.append(now_s)
    return chunks, at_s


@pytest.mark.parametrize(("mask", "is_full"), [("full", True), ("chunk", False)])
def test_a_whole_answer_is_one_hop_under_the_mask_of_the_settings(mask, is_full):
    run = open_run(AcousticSettings(whole_answer_mask=mask), stream=False)
    hop = run.plan.next_hop(60, ended=True)
    assert (hop.visible_tokens, hop.is_final, hop.full_mask) == (60, True, is_full)
    assert run.frames_of(hop) == 2 * (60 + (78 if is_full else 0))


def test_larger_chunks_are_fewer_and_come_later():
    small, small_s = play(AcousticSettings(token_hop_len=25), 500)
    large, large_s = play(AcousticSettings(token_hop_len=50), 500)
    assert small == [25] * 20
    assert large == [50] * 10
    assert large_s[0] > small_s[0] == pytest.approx(28 * TOKEN_S + CALL_S)


def test_chunks_that_are_no_multiples_of_the_grid_have_their_size_on_average():
    chunks, _ = play(AcousticSettings(token_hop_len=30), 630)
    assert chunks[0] == 30
    assert np.mean(chunks[1:]) == pytest.approx(30, abs=1)
    assert {size % 25 for size in chunks[1:-1]} == {0}


def test_without_a_size_the_first_chunk_is_small_and_the_others_grow():
    chunks, at_s = play(AcousticSettings(), 700)
    assert chunks[:4] == [22, 25, 50, 100]
    assert at_s[0] == pytest.approx(25 * TOKEN_S + CALL_S)


def test_growth_belongs_to_the_stream():
    """In the reference the grown hop stays for all later requests."""
    play(AcousticSettings(), 700)
    assert play(AcousticSettings(), 700)[0][0] == 22


@pytest.mark.parametrize("after", [1, 2])
def test_a_text_that_ends_just_after_a_border_takes_its_tail_along(after):
    num_tokens = 25 * 6 + 3 + after
    waiting, _ = play(AcousticSettings(token_hop_len=25, boundary_wait_ms=15), num_tokens)
    hasty, _ = play(AcousticSettings(token_hop_len=25, boundary_wait_ms=0), num_tokens)
    assert waiting == [25] * 5 + [25 + 3 + after]
    assert hasty == [25] * 6 + [3 + after]


def test_the_first_chunk_never_waits_for_a_border():
    _, waiting_s = play(AcousticSettings(boundary_wait_ms=1000), 26)
    _, hasty_s = play(AcousticSettings(boundary_wait_ms=0), 26)
    assert waiting_s[0] == hasty_s[0]


def test_no_wait_for_a_border_makes_a_listener_run_dry():
    _, at_s = play(AcousticSettings(token_hop_len=25, boundary_wait_ms=1000), 500)
    played_s = 25 * 0.04
    assert all(then < at_s[0] + played_s * (count + 1) for count, then in enumerate(at_s[1:]))


def test_in_company_even_chunks_may_grow_where_there_is_time():
    settings = AcousticSettings(token_hop_len=25)
    other = open_run(settings, key=1, num_streams=2)
    chunks, _ = play(settings, 500, others=[other])
    assert max(chunks) > 25
    assert {size % 25 for size in chunks[1:-1]} == {0}


def test_exact_alignment_keeps_the_prompt_and_pads_the_first_chunk():
    settings = AcousticSettings(token_hop_len=25, prompt_alignment="exact")
    run = open_run(settings, prompt_tokens=87)
    assert run.plan.tokens_needed == 38 + 3


@pytest.mark.parametrize(("hop", "first"), [(None, 22), (5, 8), (30, 30), (100, 100)])
def test_the_size_of_chunks_is_that_of_the_first_one_too(hop, first):
    assert AcousticSettings(token_hop_len=hop).first_hop == first
