"""Numbers, dates and units to words with `wetext`, guarded against its habits (spec: frontend, section 2.1)."""

from __future__ import annotations

import logging
import re
import threading
from typing import Any, Literal, Protocol

from light_tts.frontend.break_rules import cut_long_piece
from light_tts.frontend.text_units import has_digit

logger = logging.getLogger(__name__)

ReaderLanguage = Literal["zh", "en", "ja"]


class NumberReader(Protocol):
    """Reads the numbers of a text in a language."""

    def read(self, text: str, language: ReaderLanguage) -> str:
        """The text with numbers, dates and units in words; the text as it is when that fails."""


# Never shown to the reader: it puts backslashes before ASCII quotes and swallows line breaks.
_SEPARATORS = re.compile(r'([\r\n\t"\\]+)')
# A call holds the interpreter lock for up to 0.2 ms a character, and so holds up every other thread.
_MAX_READ_CHARS = 160
_ORDINAL = re.compile(r"(\d+(?:st|nd|rd|th)(?![a-z]))", re.IGNORECASE)  # read as seconds and worse inside Chinese text


class WetextReader:
    """`wetext` normalisers, loaded at the first number; without the package texts stay as they are. Thread safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._normalizers: dict[ReaderLanguage, Any] = {}

    def read(self, text: str, language: ReaderLanguage) -> str:
        """See `NumberReader.read`. Only stretches with a digit are touched, white space around them stays."""
        if not has_digit(text):
            return text
        separators = re.compile(f"{_SEPARATORS.pattern}|{_ORDINAL.pattern}", re.I) if language != "en" else _SEPARATORS
        return "".join(
            stretch if separators.fullmatch(stretch) else self._read_stretch(stretch, language)
            for stretch in separators.split(text)
            if stretch
        )

    def _read_stretch(self, stretch: str, language: ReaderLanguage) -> str:
        parts = cut_long_piece(stretch, len, _no_tags, _MAX_READ_CHARS)
        return "".join(self._read_part(part, language) if has_digit(part) else part for part in parts)

    def _read_part(self, text: str, language: ReaderLanguage) -> str:
        normalizer = self._normalizer(language)
        if normalizer is None:
            return text
        core = text.strip()
        before, _, after = text.partition(core)
        try:
            read = normalizer.normalize(core)
        except Exception:  # the package raises anything, also AssertionError, on scripts it does not know
            logger.debug("the number reader failed on %d characters, kept as written", len(core), exc_info=True)
            return text
        return f"{before}{read}{after}"

    def _normalizer(self, language: ReaderLanguage) -> Any:
        with self._lock:
            if language not in self._normalizers:
                self._normalizers[language] = _load(language)
            return self._normalizers[language]


def _load(language: ReaderLanguage) -> Any:
    try:
        import wetext
    except ImportError as error:
        logger.warning("wetext cannot be loaded (%s); numbers are spelled by simple rules", error)
        return None
    if language == "zh":
        return wetext.Normalizer(lang="zh", remove_erhua=False)
    return wetext.Normalizer(lang=language)


def _no_tags(_: str) -> tuple[()]:
    return ()
