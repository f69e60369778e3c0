import pytest

from light_tts.llm.layout import NOTHING_BLOCKED, OneWayLayout, length_limits
from light_tts.types import FinishReason, LLMPrompt


def layout_of(lm, text, *, min_codes=0, max_codes=100, prompt_text=(), prompt_speech=()):
    prompt = LLMPrompt(tuple(prompt_text), tuple(text), tuple(prompt_speech), len(text))
    return OneWayLayout(prompt, lm.ids, min_codes=min_codes, max_codes=max_codes)


@pytest.mark.parametrize(("n", "limits"), [(0, (0, 0)), (1, (2, 20)), (80, (160, 1600))])
def test_limits_follow_the_number_of_text_ids(n, limits):
    assert length_limits(n) == limits


def test_fractional_ratios_round_down():
    assert length_limits(3, 1.5, 2.5) == (4, 7)


def test_every_stop_id_is_blocked_below_the_minimum_and_none_from_there(lm):
    layout = layout_of(lm, [5], min_codes=2)
    for _ in range(2):
        start, stop = layout.blocked[0]
        assert range(start, stop) == lm.ids.stop_ids
        layout.accept(0)
    assert layout.blocked == NOTHING_BLOCKED


def test_any_stop_id_ends_the_run_and_is_neither_emitted_nor_fed(lm):
    for stop in lm.ids.stop_ids:
        layout = layout_of(lm, [5])
        assert layout.accept(3) == 3
        rows = list(layout.rows)
        assert layout.accept(stop) is None
        assert layout.finish_reason is FinishReason.STOP
        assert layout.rows == rows
        assert not layout.wants_sample


def test_the_longest_run_ends_by_length(lm):
    layout = layout_of(lm, [5], max_codes=3)
    for _ in range(3):
        assert layout.finish_reason is None
        layout.accept(1)
    assert layout.finish_reason is FinishReason.LENGTH


def test_below_the_sure_rows_every_code_is_followed_by_another(lm):
    layout = layout_of(lm, [5, 6], max_codes=7, prompt_speech=[1, 2])
    while layout.finish_reason is None:
        assert layout.continues_with_code is (len(layout.rows) < layout.num_sure_rows)
        layout.accept(1)


def test_no_text_means_nothing_to_run(lm):
    layout = layout_of(lm, [], max_codes=0)
    assert layout.finish_reason is FinishReason.LENGTH
    assert not layout.wants_sample


def test_the_shareable_beginning_is_sos_and_the_prompt_text(lm):
    layout = layout_of(lm, [8, 9], prompt_text=[5, 6, 7], prompt_speech=[1, 2])
    assert layout.rows[: layout.num_shareable] == [lm.ids.sos_row, 5, 6, 7]
    assert layout.rows[-2:] == [lm.ids.speech_row0 + 1, lm.ids.speech_row0 + 2]
