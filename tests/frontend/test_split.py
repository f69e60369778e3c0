"""Splitting: the recorded cases, and what must hold for any text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.frontend.break_rules import cut_long_piece, unbreakable_stops
from light_tts.frontend.split import SplitOptions, cut_sentences, split

TEXTS = st.text(alphabet='ab 你好，,。.？?！!；;：:、"”1\n', min_size=1, max_size=200)
OPTIONS = st.builds(SplitOptions, st.integers(1, 60), st.integers(0, 60), st.integers(0, 30), st.booleans())


@pytest.mark.parametrize(
    ("text", "default", "short"),
    [
        ("你好", [3], [3]),
        ("他说：“你好。”然后走了。", [13], [13]),
        ("甲" * 60 + "。" + "乙" * 24 + "。", [61, 25], [86]),
        ("甲" * 40 + "，" + "乙" * 44 + "，" + "丙" * 19 + "。", [106], [86, 20]),
        ("甲" * 40 + "，" + "乙" * 59 + "，" + "丙" * 9 + "。", [111], [41, 70]),
        ("甲" * 90 + "。" + "乙" * 30, [91, 31], [91, 31]),
        ("甲" * 200, [201], [201]),
        ("甲" * 60 + "。" + "乙" * 60 + "。" + "丙" * 9 + "。", [61, 71], [61, 71]),
    ],
)
def test_lengths_of_pieces(text: str, default: list[int], short: list[int]):
    assert [len(piece) for piece in split(text, "zh", len)] == default
    assert [len(piece) for piece in split(text, "zh", len, SplitOptions(100, 40, 15, True))] == short


@settings(deadline=None)
@given(TEXTS, OPTIONS, st.sampled_from(["zh", "en"]))
def test_pieces_join_to_the_sentences_and_lose_no_letter(text: str, options: SplitOptions, language):
    pieces = split(text, language, len, options)
    assert "".join(pieces) == "".join(cut_sentences(text, language, options.comma_split))
    assert _letters("".join(pieces)) == _letters(text)


@settings(deadline=None)
@given(TEXTS, OPTIONS)
def test_a_piece_grows_past_the_maximum_only_while_short(text: str, options: SplitOptions):
    pieces = split(text, "zh", len, options)
    sentences = cut_sentences(text, "zh", options.comma_split)
    for piece in pieces[:-1]:
        if len(piece) > options.token_max_n and piece not in sentences:
            last = next(sentence for sentence in reversed(sentences) if piece.endswith(sentence))
            assert len(piece) - len(last) <= options.token_min_n


def test_a_text_is_counted_only_where_its_characters_do_not_tell():
    counted: list[str] = []

    def half(text: str) -> int:
        counted.append(text)
        return len(text) // 2

    assert split("One. Two. Three.", "en", half) == ["One. Two. Three."]
    assert counted == []
    assert split("abc. abc. abc. abc.", "en", half, SplitOptions(5, 4, 0)) == ["abc. abc. abc.", " abc."]
    assert counted


def test_no_text_gives_no_pieces():
    assert split("", "zh", len) == []


@pytest.mark.parametrize(
    "text",
    [
        "Version 2.0 of pi is 3.14.",
        "Take v2.0 or v2.1.3 of it.",
        "Ask www.example.com/a?b=c;d=e!f or ftp://x.y:21/ there.",
        "请看https://example。com/a?b=1;c=2这里。",
        "Mr. Smith and Dr. Wu met.",
        "See https://example.com:80/a.b now.",
        "At 9:30 it began.",
        "They play e.g. chess.",
        "圆周率3。14左右。",
    ],
)
def test_marks_inside_words_end_no_sentence(text: str):
    language = "en" if text[0].isascii() else "zh"
    assert cut_sentences(text, language, unbreakable=unbreakable_stops(text)) == [text]


def test_an_address_does_not_swallow_the_end_of_its_sentence():
    text = "See https://example.com/a? I did! Go to www.b.org. Then rest."
    expected = ["See https://example.com/a?", " I did!", " Go to www.b.org.", " Then rest."]
    assert cut_sentences(text, "en", unbreakable=unbreakable_stops(text)) == expected


def test_a_missing_space_still_ends_the_sentence():
    text = "It is done.Then we left."
    assert cut_sentences(text, "en", unbreakable=unbreakable_stops(text)) == ["It is done.", "Then we left."]


def _no_tags(_: str) -> list[tuple[int, int]]:
    return []


@settings(deadline=None)
@given(st.text(alphabet="ab ，,。.你\n", max_size=300), st.integers(1, 40))
def test_the_hard_maximum_holds_and_nothing_is_lost(text: str, limit: int):
    parts = cut_long_piece(text, len, _no_tags, limit)
    assert "".join(parts) == text
    assert all(len(part) <= limit for part in parts[:-1])
    assert not parts or len(parts[-1].rstrip(" ，,。.\n")) <= limit or len(parts) == 1


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("one two three, four five six seven", "one two three,"),
        ("one two three four five six seven", "one two three four"),
        ("onetwothreefourfivesixseven", "onetwothreefourfives"),
    ],
)
def test_long_pieces_are_cut_at_a_comma_else_a_space_else_anywhere(text: str, first: str):
    assert cut_long_piece(text, len, _no_tags, 20)[0] == first


def test_a_tag_is_never_cut():
    text = "a" * 15 + "[laughter]" + "b" * 15
    parts = cut_long_piece(text, len, lambda part: [(15, 25)] if part.startswith("a") else [], 20)
    assert parts[0] == "a" * 15
    assert "".join(parts) == text


def _letters(text: str) -> str:
    return "".join(char for char in text if char.isalnum())
