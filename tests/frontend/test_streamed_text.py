"""Text in pieces: what leaves early, what waits, and that the cuts between pieces do not matter."""

import itertools

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from light_tts.frontend.normalize import TextNormalizer
from light_tts.frontend.number_reader import WetextReader
from light_tts.frontend.streamed_text import MAX_HELD_CHARS, StreamedText

NORMALIZER = TextNormalizer(len, tags=("[laughter]", "<strong>", "</strong>"), reader=WetextReader())


def stream(language="auto"):
    return StreamedText(NORMALIZER.whole, language)


def spoken(pieces, language="auto"):
    text = stream(language)
    return "".join([*(text.feed(piece) for piece in pieces), text.end()])


def test_words_leave_early_and_the_last_two_wait():
    text = stream()
    assert text.feed("The quick br") == ""
    assert text.feed("own fox jumps ov") == "The quick brown"
    assert text.feed("er. ") == " fox jumps over."
    assert text.feed("收到好友从远方") == ""  # the space before it belongs to nobody
    assert text.feed("寄来的礼物，") == "收到好友从远方寄来的礼物，"
    assert text.feed("那份意外的惊喜") == "那份意外的"
    assert text.end() == "惊喜"


def test_a_clause_with_a_number_waits_for_its_end():
    text = stream()
    assert text.feed("Once we met at 3") == "Once we"
    assert text.feed(":30, ") == " met at three thirty,"
    assert text.feed("他在下午3:30") == ""
    assert text.feed("来了。") == "他在下午三点三十分来了。"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Version 2.5 costs $3, not $7.", "Version two point five costs three dollars, not seven dollars."),
        ("价格是100元，重量2.5公斤。", "价格是一百元，重量二点五公斤。"),
        ("今年是2024年。100。好的.", "今年是二零二四年。一百。好的。"),
        ("I laughed [laughter] twice.", "I laughed [laughter] twice."),
        ("你 好 世界", "你好世界"),
    ],
)
def test_numbers_are_read_whatever_the_pieces(text, expected):
    assert spoken([text]) == expected
    assert spoken(text) == expected
    for cut in range(1, len(text)):
        assert spoken([text[:cut], text[cut:]]) == expected


letters = st.text(alphabet="abc XYZ你好世界，。.,!?… '", max_size=40)


@hypothesis_settings(max_examples=200, deadline=None)
@given(pieces=st.lists(letters, max_size=8))
def test_the_cuts_between_pieces_do_not_matter(pieces):
    whole = "".join(pieces)
    assert spoken(pieces).replace(" ", "") == spoken([whole]).replace(" ", "")
    assert spoken(whole).replace(" ", "") == spoken([whole]).replace(" ", "")


def test_nothing_speakable_is_never_a_beginning():
    text = stream()
    assert [text.feed(piece) for piece in ("。", " ", "…", "!")] == [""] * 4
    assert text.end() == ""
    assert text.feed("!ok") + text.end() == "!ok"
    assert text.feed("。") + text.end() == ""


def test_what_is_discarded_is_forgotten():
    text = stream()
    text.feed("gone with 3")
    text.discard()
    assert text.feed("here") + text.end() == "here"


def test_a_clause_without_an_end_does_not_wait_for_ever():
    text = stream()
    words = itertools.repeat("3x ", MAX_HELD_CHARS)
    assert any(text.feed(word) for word in words)


def test_as_written_nothing_is_changed_or_held():
    text = StreamedText(None)
    assert text.feed(" 3") == " 3"
    assert text.feed(".1 <|im_end|>") == ".1 <|im_end|>"
    assert text.end() == ""


def test_a_language_hint_decides_about_bare_numbers():
    assert spoken(["100。"], "zh") == "一百。"
    assert spoken(["100。"], "en") == "one hundred。"
