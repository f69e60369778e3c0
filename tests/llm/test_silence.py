from hypothesis import given
from hypothesis import strategies as st

from light_tts.llm.silence import MAX_SILENT_RUN, SilenceFilter


@given(st.lists(st.sampled_from([1, 2, 7, 8])))
def test_no_run_of_silence_is_longer_than_five_and_speech_is_untouched(codes):
    silence = SilenceFilter(frozenset({1, 2}))
    kept = [code for code in codes if silence.keeps(code)]
    assert [code for code in kept if code > 2] == [code for code in codes if code > 2]
    longest = run = 0
    for code in kept:
        run = run + 1 if code in (1, 2) else 0
        longest = max(longest, run)
    assert longest <= MAX_SILENT_RUN


@given(st.lists(st.integers(0, 6560)))
def test_a_model_without_silent_codes_keeps_everything(codes):
    silence = SilenceFilter(frozenset())
    assert all(silence.keeps(code) for code in codes)
