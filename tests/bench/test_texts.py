"""The texts of a load."""

from pathlib import Path

import pytest

from light_tts.bench.texts import read_texts, text_set
from light_tts.errors import ConfigError


def is_chinese(text: str) -> bool:
    return any("一" <= letter <= "鿿" for letter in text)


def test_languages_alternate() -> None:
    texts = text_set("short")
    assert [is_chinese(text) for text in texts] == [False, True] * (len(texts) // 2)
    assert len(set(texts)) == len(texts)


def test_one_language_is_only_that() -> None:
    assert not any(is_chinese(text) for text in text_set("medium", "en"))
    assert all(is_chinese(text) for text in text_set("medium", "zh"))


def test_short_is_shorter_than_medium() -> None:
    for language in ("en", "zh"):
        assert max(map(len, text_set("short", language))) < min(map(len, text_set("medium", language)))


def test_own_texts_are_the_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("one\n\n  两个 \n", encoding="utf-8")
    assert read_texts(path) == ("one", "两个")


@pytest.mark.parametrize("content", [b"\n \n", b"\xff\xfe\xff", None])
def test_a_file_without_texts_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"texts\.txt"):
        read_texts(path)
