"""Cut a text into sentences and join those to pieces of useful length (spec: frontend, section 2.2). Pure."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Literal

from light_tts.frontend.text_units import is_longer

SplitLanguage = Literal["zh", "en"]
_STOPS: dict[SplitLanguage, str] = {"zh": "。？！；：、.?!;", "en": ".?!;:"}
_COMMAS = "，,"
_CLOSING_QUOTES = '"”'


@dataclass(frozen=True)
class SplitOptions:
    """How long pieces become; lengths in characters for Chinese, in text ids otherwise.

    token_max_n:  sentences are joined up to this length; one sentence may be longer.
    token_min_n:  a piece no longer than this takes the next sentence whatever its length.
    merge_len:    a last piece shorter than this joins the one before.
    comma_split:  commas end sentences too.
    """

    token_max_n: int = 80
    token_min_n: int = 60
    merge_len: int = 20
    comma_split: bool = False


def split(
    text: str,
    language: SplitLanguage,
    length: Callable[[str], int],
    options: SplitOptions | None = None,
    *,
    unbreakable: Container[int] = (),
) -> list[str]:
    """Pieces of `text`, in order, each ending in a stop mark. An empty text gives none.

    length:       counts a text in the unit of the options; see `is_longer`.
    unbreakable:  indices of stop marks that end no sentence (decimal points, abbreviations).

    Pieces keep their leading spaces; of repeated stop marks the first stays.
    """
    if not text:
        return []
    options = options or SplitOptions()
    return join_sentences(cut_sentences(text, language, options.comma_split, unbreakable), length, options)


def cut_sentences(
    text: str, language: SplitLanguage, comma_split: bool = False, unbreakable: Container[int] = ()
) -> list[str]:
    """Sentences with their stop mark; a closing quote after it stays with it."""
    stops = _STOPS[language] + (_COMMAS if comma_split else "")
    if text[-1] not in stops:
        text += "。" if language == "zh" else "."
    last = len(text) - 1
    sentences: list[str] = []
    start = 0
    for index, char in enumerate(text):
        if char not in stops or (index in unbreakable and index != last):
            continue
        if index > start:
            sentences.append(text[start : index + 1])
        quoted = index < last and text[index + 1] in _CLOSING_QUOTES
        if quoted and sentences:
            sentences[-1] += text[index + 1]
        start = index + 2 if quoted else index + 1
    return sentences


def join_sentences(sentences: list[str], length: Callable[[str], int], options: SplitOptions) -> list[str]:
    """Join neighbours from the left until a piece would grow past the maximum; sentences are never cut."""
    pieces: list[str] = []
    current = ""
    for sentence in sentences:
        is_enough = is_longer(current, options.token_min_n, length)
        if is_enough and is_longer(current + sentence, options.token_max_n, length):
            pieces.append(current)
            current = ""
        current += sentence
    if not current:
        return pieces
    if pieces and not is_longer(current, options.merge_len - 1, length):
        pieces[-1] += current
    else:
        pieces.append(current)
    return pieces
