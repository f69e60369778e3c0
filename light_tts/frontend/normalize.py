"""Text as people write it to pieces the model reads well (spec: frontend, section 2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from light_tts.frontend.break_rules import HARD_MAX, cut_long_piece, unbreakable_stops
from light_tts.frontend.latin_languages import is_english
from light_tts.frontend.number_reader import NumberReader, ReaderLanguage
from light_tts.frontend.number_words import spell_out_numbers
from light_tts.frontend.split import SplitLanguage, SplitOptions, split
from light_tts.frontend.text_units import (
    clean_chinese,
    contains_chinese,
    has_latin_letters,
    is_only_punctuation,
    is_speakable,
    language_of_script,
)

_TAG_LIKE = r"<\|[^<>|]*\|>"  # never read as "vertical bar", known or not
# The reference spells the digits of Japanese and Korean text in English, and so were the models trained; say which
# language it is to have them left as they are.
_SPELLED_WITHOUT_HINT = frozenset({"en", "ja", "ko"})


class TextNormalizer:
    """Reads numbers, cleans up and splits. Holds no state between calls; safe from many threads.

    length:       counts a text in text ids; used for everything but Chinese, which counts characters.
    tags:         special tokens; numbers inside them are not read, and they are never cut.
    reader:       reads numbers, dates and units; None leaves digits to the simple rules.
    hard_max:     longest piece, in the unit of the options; longer ones are cut inside a sentence.
    protections:  True for serving: decimals, abbreviations and addresses end no sentence, pieces have a hard maximum,
                  texts in languages without their own rules are not spelled in English, and tags switch nothing off.
                  False is the reference: "<|" with "|>" anywhere passes the text verbatim and in one piece.
    """

    def __init__(
        self,
        length: Callable[[str], int],
        *,
        tags: Sequence[str] = (),
        reader: NumberReader | None = None,
        options: SplitOptions | None = None,
        hard_max: int = HARD_MAX,
        protections: bool = True,
    ) -> None:
        self._length = length
        self._reader = reader
        self._options = options or SplitOptions()
        self._hard_max = hard_max
        self._protections = protections
        ordered = sorted(tags, key=len, reverse=True)
        self._tag = re.compile("|".join([*map(re.escape, ordered), _TAG_LIKE]))

    def pieces(self, text: str, language: str = "auto") -> list[str]:
        """The pieces to speak, in order; none when nothing in the text can be spoken.

        language:  "auto" looks at the script; else a code such as "zh", "en" or "de".
        """
        if not text or self._passes_verbatim(text):
            return [text]
        cleaned, path = self._clean(text, language)
        if not self._protections:
            pieces = split(cleaned, path, self._counter(path), self._options)
            return [piece for piece in pieces if not is_only_punctuation(piece)]
        length = self._counter(path)
        whole = split(cleaned, path, length, self._options, unbreakable=unbreakable_stops(cleaned))
        cut = [part for piece in whole for part in cut_long_piece(piece, length, self._tag_spans, self._hard_max)]
        return [piece for piece in cut if is_speakable(piece)]

    def whole(self, text: str, language: str = "auto") -> str:
        """The text read and cleaned up, but not split: for the transcript of a recording."""
        if not text or self._passes_verbatim(text):
            return text
        return self._clean(text, language)[0]

    def _passes_verbatim(self, text: str) -> bool:
        return not self._protections and "<|" in text and "|>" in text

    def _counter(self, path: SplitLanguage) -> Callable[[str], int]:
        return len if path == "zh" else self._length

    def _clean(self, text: str, language: str) -> tuple[str, SplitLanguage]:
        text = text.strip()
        chinese = contains_chinese(text) or (language in ("zh", "yue") and not has_latin_letters(text))
        path: SplitLanguage = "zh" if chinese else "en"
        script = language_of_script(text)
        if self._protections and language == "auto" and script == "en" and not is_english(text):
            script = "other"
        reader_language = self._reader_language(path, language, script)
        if self._reader is not None and reader_language is not None:
            reader = self._reader
            text = self._outside_tags(text, lambda part: reader.read(part, reader_language))
        if chinese:
            return clean_chinese(text), path
        if not self._protections or _is_spelled_in_english(language, script):
            text = self._outside_tags(text, spell_out_numbers)
        return text, path

    def _reader_language(self, path: SplitLanguage, language: str, script: str) -> ReaderLanguage | None:
        if not self._protections:
            return path
        if language == "ja" or (language == "auto" and script == "ja" and path == "en"):
            return "ja"
        if path == "zh":
            return "zh"
        return "en" if language == "en" or (language == "auto" and script == "en") else None

    def _outside_tags(self, text: str, change: Callable[[str], str]) -> str:
        out: list[str] = []
        end = 0
        for begin, tag_end in self._tag_spans(text):
            out += [change(text[end:begin]), text[begin:tag_end]]
            end = tag_end
        out.append(change(text[end:]))
        return "".join(out)

    def _tag_spans(self, text: str) -> Iterator[tuple[int, int]]:
        return (match.span() for match in self._tag.finditer(text))


def _is_spelled_in_english(language: str, script: str) -> bool:
    return language == "en" or (language == "auto" and script in _SPELLED_WITHOUT_HINT)
