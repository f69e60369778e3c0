"""The small rules of text clean-up, one function each (spec: frontend, section 2). Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_IDEOGRAPH = re.compile("[\u4e00-\u9fff]")
_BRACKETS = str.maketrans(dict.fromkeys("（）【】`", ""))
_TRAILING_COMMAS = re.compile("[，,、]+$")
_SCRIPTS = (
    ("ja", re.compile("[\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9d]")),
    ("ko", re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")),
    ("zh", _IDEOGRAPH),
    ("ru", re.compile("[\u0400-\u04ff]")),
)
LANGUAGES = frozenset({"auto", "zh", "yue", "en", "ja", "ko", "de", "fr", "es", "it", "ru"})


def contains_chinese(text: str) -> bool:
    """True when any character lies in U+4E00..U+9FFF."""
    return _IDEOGRAPH.search(text) is not None


def is_only_punctuation(text: str) -> bool:
    """True when every character is punctuation or a symbol; the empty text counts, white space does not."""
    return all(unicodedata.category(char)[0] in "PS" for char in text)


def is_speakable(text: str) -> bool:
    """True when there is at least one letter or number."""
    return any(unicodedata.category(char)[0] in "LN" for char in text)


def has_digit(text: str) -> bool:
    """True when any character is a digit of any script, superscripts and circled ones included."""
    return any(map(str.isdigit, text))


def is_longer(text: str, limit: int, length: Callable[[str], int]) -> bool:
    """True when `length` counts more than the limit; it is only asked where the characters do not tell.

    length:  counts ASCII characters as one each at most, as text ids do.
    """
    return not (text.isascii() and len(text) <= limit) and length(text) > limit


def has_latin_letters(text: str) -> bool:
    """True when any letter of the Latin script is present."""
    return any(char.isalpha() and unicodedata.name(char, "").startswith("LATIN") for char in text)


def language_of_script(text: str) -> str:
    """The language that the script speaks for: "ja", "ko", "zh", "ru", "en" for Latin letters or none, else "other"."""
    if text.isascii():
        return "en"
    for language, pattern in _SCRIPTS:
        if pattern.search(text):
            return language
    if has_latin_letters(text) or not any(char.isalpha() for char in text):
        return "en"
    return "other"


def replace_blank(text: str) -> str:
    """Delete each space that does not stand between two ASCII characters that are no spaces.

    As in the reference, a space in front counts as standing after the last character; it raises for a space at the
    very end, which goes here. Neither occurs in text without white space around it.
    """
    if " " not in text:
        return text
    return "".join(char for index, char in enumerate(text) if char != " " or _keeps_space(text, index))


def _keeps_space(text: str, index: int) -> bool:
    if index == len(text) - 1:
        return False
    before, after = text[index - 1], text[index + 1]
    return before.isascii() and after.isascii() and before != " " and after != " "


def replace_corner_mark(text: str) -> str:
    """Read the superscripts of areas and volumes."""
    return text.replace("²", "平方").replace("³", "立方")


def remove_bracket(text: str) -> str:
    """Delete Chinese brackets and back quotes, turn the long dash into a space; ASCII brackets stay."""
    return text.translate(_BRACKETS).replace("——", " ")


def clean_chinese(text: str) -> str:
    """Steps b to h of the Chinese path, in the reference's order."""
    text = replace_blank(text.replace("\n", ""))
    text = replace_corner_mark(text).replace(".", "。").replace(" - ", "，")
    return _TRAILING_COMMAS.sub("。", remove_bracket(text))
