"""What serving does beyond the reference's splitting: marks that end no sentence, and a hard maximum. Pure.

The reference cuts after every stop mark and never inside a sentence. That breaks "3.14", "Mr. Smith" and addresses, and
lets a text without stop marks through in one piece of any length. These rules only choose where cuts are made; they
change no character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from light_tts.frontend.text_units import is_longer, is_speakable

HARD_MAX = 200  # characters (Chinese) or text ids (otherwise) of one piece; longer ones drift

# Titles and Latin shorthand that are always followed by the rest of their sentence.
_SHORTHAND = "mr mrs ms dr prof rev gen sen capt lt col sgt st mt vs e.g i.e cf approx fig"
# The patterns begin with the mark, which is rare, and look back from there.
_ABBREVIATION = re.compile(
    r"\.(?=\s)(?:" + "|".join(rf"(?<=\b{re.escape(word)}\.)" for word in _SHORTHAND.split()) + ")", re.IGNORECASE
)
# Between two word characters without a space: decimals, versions, times, host names. A capital after a small letter is
# rather a missing space ("done.Then"). Clean-up turns "." into "。" in Chinese texts.
_INSIDE_WORD = re.compile(r"[.。:](?<=[A-Za-z0-9].)(?=[A-Za-z0-9])")
# An address, up to its last letter, digit or slash; what follows may end the sentence.
_ADDRESS = re.compile(r"(?:[A-Za-z]+://|www[.。])[A-Za-z0-9。./?#@!$&'()*+,;=:%_~-]*[A-Za-z0-9/]")
_MARK_INSIDE = re.compile(r"[.。:](?!\Z)")  # all of the above have one
_CUT_AFTER = ("。！？；：!?;:", "，,、", " \t\r\n　")  # weaker and weaker places to cut a piece that is too long


def unbreakable_stops(text: str) -> frozenset[int]:
    """Indices in `text` where a stop mark ends no sentence."""
    if not _MARK_INSIDE.search(text):
        return frozenset()
    inside = {
        match.start()
        for match in _INSIDE_WORD.finditer(text)
        if not (text[match.start() - 1].islower() and text[match.start() + 1].isupper())
    }
    shorthand = {match.start() for match in _ABBREVIATION.finditer(text)}
    addresses = {index for match in _ADDRESS.finditer(text) for index in range(*match.span())}
    return frozenset(inside | shorthand | addresses)


def cut_long_piece(
    piece: str,
    length: Callable[[str], int],
    tag_spans: Callable[[str], Iterable[tuple[int, int]]],
    limit: int = HARD_MAX,
) -> list[str]:
    """Cut a piece longer than `limit` at the last mark before it, else the last comma, else space, else anywhere.

    length:     counts a text, as for splitting; see `is_longer`.
    tag_spans:  (begin, end) of the special tokens in a text; they are never cut.

    The parts join to the piece again. Closing marks after the last word do not count.
    """
    parts: list[str] = []
    rest = piece
    while True:
        fits = _longest_prefix(rest, length, limit)
        if fits == len(rest):
            break
        cut = _best_cut(rest, fits, tuple(tag_spans(rest[: fits + _LONGEST_TAG])))
        parts.append(rest[:cut])
        rest = rest[cut:]
    if parts and not is_speakable(rest):  # a lone closing quote or stop mark stays with the words before it
        parts[-1] += rest
    elif rest:
        parts.append(rest)
    return parts


_LONGEST_TAG = 64  # characters; how far past the limit a tag may reach


def _longest_prefix(text: str, length: Callable[[str], int], limit: int) -> int:
    """Number of characters at the front of `text` that stay within `limit`, at least one.

    Gallops, so that the cost depends on the limit and not on the text.
    """
    low, high = 1, max(1, limit)
    while high < len(text) and not is_longer(text[:high], limit, length):
        low, high = high, high * 2
    high = min(high, len(text))
    if not is_longer(text[:high], limit, length):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if not is_longer(text[:middle], limit, length):
            low = middle
        else:
            high = middle
    return low


def _best_cut(text: str, fits: int, tags: tuple[tuple[int, int], ...]) -> int:
    """Where to cut `text` so that at most `fits` characters go left; at least one does, and no tag is cut."""
    keep_whole = unbreakable_stops(text[: fits + 1])
    in_tag = {index for begin, end in tags for index in range(begin, end)}
    for marks in _CUT_AFTER:
        # A cut in the first quarter would leave a fragment; rather use a weaker mark further on.
        for index in range(fits - 1, fits // 4, -1):
            if text[index] in marks and index not in keep_whole and index not in in_tag:
                return index if text[index].isspace() else index + 1  # pieces keep their leading spaces
    for begin, end in tags:
        if begin < fits < end:
            return begin or end
    return fits
