"""Which lane takes which hop, and whom the main lane waits for; on a virtual clock."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from light_tts.acoustic.lane_share import ExpressShare, MainShare
from light_tts.settings import AcousticSettings
from light_tts.types import SAMPLES_PER_TOKEN, FinishReason
from tests.acoustic.test_choice import open_run

KNOWN = "known"


@pytest.fixture
def shares():
    flow = SimpleNamespace(net=SimpleNamespace(chunk_frames=50), prompts={KNOWN: None})
    settings = AcousticSettings(express_streams=3)
    main = MainShare(settings, flow)
    express = ExpressShare(settings, main)
    for share in (main, express):
        for rows, seconds in ((1, 0.02), (2, 0.021), (16, 0.03)):
            share.costs.observe(rows, 50, seconds)
    return main, express


def a_run(key, num_tokens=0, voice=KNOWN, **fields):
    run = open_run(AcousticSettings(), key=key, **fields)
    run.flow.prompt_key = voice
    run.put([0] * num_tokens)
    return run


def chosen(share, runs, now_s=0.0):
    work, recheck_s = share.choose({run.key: run for run in runs}, now_s, is_idle=True)
    return [run.key for run, _ in work], recheck_s


def started(key, num_tokens):
    """A run whose first hop was heard at the beginning of time, and that has all its tokens."""
    run = a_run(key, 25)
    hop = run.hop_with(0)
    run.served(hop, hop.hop_tokens * SAMPLES_PER_TOKEN, 0.0)
    run.put([0] * num_tokens)
    run.reason = FinishReason.STOP
    return run


def test_first_hops_in_known_voices_go_to_the_express_lane_and_the_rest_to_the_main_one(shares):
    main, express = shares
    runs = [a_run(0, 25), a_run(1, 25, "unknown"), started(2, 60)]
    assert chosen(express, runs)[0] == [0]
    chosen(main, runs)  # a first hop waits a moment for others
    assert chosen(main, runs, now_s=0.01)[0] == [1, 2]


def test_a_stream_by_itself_stays_on_the_main_lane(shares):
    main, express = shares
    run = a_run(0, 25)
    assert chosen(express, [run])[0] == []
    assert chosen(main, [run])[0] == [0]


def test_among_many_the_main_lane_takes_all(shares):
    main, express = shares
    runs = [a_run(0, 25), a_run(1, 25), a_run(2)]
    assert chosen(main, runs)[0] == []
    assert sorted(chosen(express, runs)[0]) == [0, 1]
    runs.append(a_run(3))
    assert chosen(express, runs)[0] == []
    assert sorted(chosen(main, runs, now_s=0.01)[0]) == [0, 1]


@pytest.mark.parametrize("where", ["in the language model", "in the express lane"])
def test_who_has_time_waits_until_first_audio_has_been_made_elsewhere(shares, where):
    main, express = shares
    listener = started(0, 60)
    assert chosen(main, [listener])[0] == [0]
    waiting = a_run(1, 25 if where == "in the express lane" else 0)
    runs = [listener, waiting]
    if where == "in the express lane":
        [run], _ = zip(*express.choose({run.key: run for run in runs}, 0.0, is_idle=True)[0], strict=True)
        express.begin([(run, run.hop_with(0))])
    keys, recheck_s = chosen(main, runs)
    assert keys == []
    assert recheck_s is not None
    assert 0.0 < recheck_s <= 0.2
    assert chosen(main, runs, now_s=recheck_s + 1e-6)[0] == [0], "not for long"
    if where == "in the express lane":
        express.end([(waiting, waiting.hop_with(0))])
        waiting.cancel()
        del runs[1]
        assert chosen(main, runs)[0] == [0]


def test_a_voice_is_new_until_the_call_that_computes_its_states_has_ended(shares):
    main, express = shares
    new = a_run(0, 25, "new")
    main.begin([(new, new.hop_with(0))])
    main._flow.prompts["new"] = None
    other = a_run(1, 25, "new")
    assert chosen(express, [new, other])[0] == []
    main.end([(new, new.hop_with(0))])
    assert chosen(express, [other, started(2, 0)])[0] == [1]
