"""Finished speech of short texts: what is kept, what leaves, and what tells two requests apart."""

from dataclasses import replace

import numpy as np
import pytest

from light_tts.audio_output import encode_complete
from light_tts.errors import EngineFailure
from light_tts.phrase_cache import PhraseCache, phrase_key
from light_tts.types import FlowPrompt, LLMPrompt, Mode, PreparedRequest, SamplingOptions, SynthesisRequest


def noise(num_samples, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, num_samples).astype(np.float32)


@pytest.mark.parametrize("format_name", ["pcm", "wav"])
def test_a_hit_encodes_to_the_very_bytes_of_the_first_answer(format_name):
    cache, samples = PhraseCache(10_000), noise(4_000)
    cache.put(b"k", samples)
    assert encode_complete(cache.get(b"k"), format_name) == encode_complete(samples, format_name)


def test_what_was_not_asked_for_the_longest_leaves_first():
    cache = PhraseCache(3 * 200)
    for name in (b"a", b"b", b"c"):
        cache.put(name, noise(100))
    cache.get(b"a")
    cache.put(b"d", noise(100))
    assert cache.get(b"b") is None
    assert all(cache.get(name) is not None for name in (b"a", b"c", b"d"))
    cache.put(b"e", noise(300))  # as large as the whole budget
    assert (len(cache), cache.used_bytes) == (1, 600)


def test_speech_put_again_takes_no_more_room():
    cache = PhraseCache(1_000)
    cache.put(b"a", noise(100))
    cache.put(b"a", noise(50))
    assert (len(cache), cache.used_bytes) == (1, 100)
    assert cache.get(b"a").size == 50


def test_what_fits_nowhere_is_not_kept():
    cache = PhraseCache(100)
    cache.put(b"a", noise(10))
    cache.put(b"large", noise(51))
    cache.put(b"empty", noise(0))
    assert len(cache) == 1
    nothing = PhraseCache(0)
    nothing.put(b"a", noise(10))
    assert nothing.get(b"a") is None


def test_samples_that_are_no_numbers_are_not_kept():
    cache = PhraseCache(100)
    with pytest.raises(EngineFailure):
        cache.put(b"a", np.array([np.nan], np.float32))
    assert cache.get(b"a") is None


def prepared(**changes):
    segment = LLMPrompt((1, 2), (3, 4), (5,), 2)
    fields = {"segments": (segment,), "flow_prompt": FlowPrompt("voice", *3 * (None,)), "voice_id": "a"}
    return PreparedRequest(**fields | {"mode": Mode.ZERO_SHOT} | changes)


def test_all_that_decides_how_a_request_sounds_is_in_its_key():
    request = SynthesisRequest("text")
    segment = prepared().segments[0]
    keys = [phrase_key(prepared(), request, flow_steps=10, engine="model")]
    for changed in (
        prepared(segments=(replace(segment, text_ids=(3, 5)),)),
        prepared(segments=(replace(segment, prompt_text_ids=(1,)),)),
        prepared(segments=(replace(segment, prompt_speech=()),)),
        prepared(segments=(segment, segment)),
        prepared(flow_prompt=FlowPrompt("other voice", *3 * (None,))),
        prepared(mode=Mode.CROSS_LINGUAL),
    ):
        keys.append(phrase_key(changed, request, flow_steps=10, engine="model"))
    for change in ({"speed": 1.1}, {"sampling": SamplingOptions(top_k=5)}, {"sampling": SamplingOptions(greedy=True)}):
        keys.append(phrase_key(prepared(), replace(request, **change), flow_steps=10, engine="model"))
    keys.append(phrase_key(prepared(), request, flow_steps=5, engine="model"))
    keys.append(phrase_key(prepared(), request, flow_steps=10, engine="model in another precision"))
    assert len(set(keys)) == len(keys) == 12


def test_what_does_not_decide_it_is_not_in_its_key():
    """Texts written differently that are read alike, names of one voice, the caller's id, how the answer is sent."""
    plain = phrase_key(prepared(), SynthesisRequest("a"), flow_steps=10, engine="model")
    other = SynthesisRequest(" a ", voice="x", stream=False, request_id="r", timeout_s=3.0, flow_steps=10)
    assert phrase_key(prepared(voice_id="alias"), other, flow_steps=10, engine="model") == plain
