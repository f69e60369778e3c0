"""Text that arrives in pieces, made ready clause by clause while the rest is still being written. Pure.

What is passed on early is text that reading aloud does not change: words. A clause with a number or a sign in it waits
for its end, because how "3:30" is read depends on what stands around it. What comes out depends on the text alone, but
for the borders at which words are cut into ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from light_tts.frontend.text_units import contains_chinese, has_latin_letters, is_speakable

MAX_HELD_CHARS = 120  # of a clause without an end; more is passed on, so that nobody waits for ever

_MARKS = "。？！；：、，….?!;:,\n"
# Full-width marks end a clause at once. ASCII ones, and the colon of a time, may stand inside a number or a name.
_CLAUSE_END = re.compile(r"[。？！；、，…\n]|[.?!;:,：](?=[^0-9A-Za-z.?!;:,])")
_IDEOGRAPHS = re.compile("[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]+")
_WORDS = re.compile(r"\s*(?:[^\W\d_\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]+(?:['’-][^\W\d_]+)*\s+)+")
_HELD_IDEOGRAPHS = 2
_HELD_WORDS = 2  # "on May" decides how a following 5 is read


class StreamedIds:
    """What `TextAudioStream` reads from: pieces of text to text ids.

    check:   raises InvalidRequest for a piece that cannot be used.
    encode:  text to ids.
    """

    def __init__(
        self, text: StreamedText, *, check: Callable[[str], None], encode: Callable[[str], Sequence[int]]
    ) -> None:
        self._text = text
        self._check = check
        self._encode = encode

    def feed(self, text: str) -> Sequence[int]:
        """Ids of what can be spoken with this piece. Raises InvalidRequest."""
        self._check(text)
        return self._encode(self._text.feed(text))

    def end(self) -> Sequence[int]:
        """Ids of what is left; what follows is a new beginning."""
        return self._encode(self._text.end())

    def discard(self) -> None:
        """Forget what has not become ids yet."""
        self._text.discard()


class StreamedText:
    """The text of one run of speech after another. One thread at a time.

    normalize:   (clause, language) to the clause as it is read; None passes everything on as it comes, as written.
    language:    "auto", or a code.
    """

    def __init__(self, normalize: Callable[[str, str], str] | None, language: str = "auto") -> None:
        self._normalize = normalize
        self._language = language
        self._held = ""
        self._has_spoken = False  # something speakable was passed on since the last `end`
        self._is_chinese = language in ("zh", "yue")

    def feed(self, text: str) -> str:
        """Take a piece; returns what can be spoken now, which may be nothing."""
        self._held += text
        if not self._has_spoken and not is_speakable(self._held):
            return ""
        self._has_spoken = True
        if self._normalize is None:
            ready, self._held = self._held, ""
            return ready
        ready = "".join(self._take_clauses())
        return ready + self._take_plain()

    def end(self) -> str:
        """Nothing belongs to what is held any more: returns it. What follows is a new beginning."""
        rest, self._held = self._held, ""
        is_worth_it = self._has_spoken or is_speakable(rest)
        self._has_spoken = False
        if not is_worth_it:
            return ""
        return rest if self._normalize is None else self._read(rest)

    def discard(self) -> None:
        """Forget what is held."""
        self._held, self._has_spoken = "", False

    def _take_clauses(self) -> list[str]:
        ready = []
        while self._held:
            match = _CLAUSE_END.search(self._held)
            if match is not None:
                end = match.end()
            elif len(self._held) > MAX_HELD_CHARS:
                end = max(self._held.rfind(" ", 0, MAX_HELD_CHARS), 0) or MAX_HELD_CHARS
            else:
                break
            ready.append(self._read(self._held[:end]))
            self._held = self._held[end:]
        return ready

    def _take_plain(self) -> str:
        """The words at the front that nothing which may follow can change."""
        end = _plain_length(self._held)
        ready, self._held = self._held[:end], self._held[end:]
        self._note_script(ready)
        return ready

    def _read(self, clause: str) -> str:
        assert self._normalize is not None
        core = clause.strip()
        body = core.rstrip(_MARKS)
        marks = core[len(body) :]
        self._note_script(body)
        if not body:
            return clause
        is_chinese = contains_chinese(body) or (self._is_chinese and not has_latin_letters(body))
        language = "zh" if is_chinese and self._language == "auto" else self._language
        read = self._normalize(body, language)
        if is_chinese:
            return read + marks.replace(".", "。")
        before, after = clause[: clause.index(core)], clause[clause.index(core) + len(core) :]
        return before + read + marks + after

    def _note_script(self, text: str) -> None:
        # A clause of digits alone is read in the language of the text around it.
        if self._language == "auto" and is_speakable(text):
            self._is_chinese = contains_chinese(text) or (self._is_chinese and not has_latin_letters(text))


def _plain_length(text: str) -> int:
    if (match := _IDEOGRAPHS.match(text)) is not None:
        return max(0, match.end() - _HELD_IDEOGRAPHS)
    if (match := _WORDS.match(text)) is None:
        return 0
    starts = [word.start() for word in re.finditer(r"\s*\S+", match.group())]
    return starts[-_HELD_WORDS] if len(starts) > _HELD_WORDS else 0
