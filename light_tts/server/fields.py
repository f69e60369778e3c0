"""Typed reading of request fields that go by several names; collects what is missing or ill-typed."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from light_tts.errors import InvalidRequest
from light_tts.server.errors import ConflictingFields, InvalidFields

T = TypeVar("T")

TRUE_WORDS = ("true", "1", "yes", "on")
FALSE_WORDS = ("false", "0", "no", "off")


class Fields:
    """One request's fields. Read each by all its names, then call `check` once.

    Wrong types and missing fields are gathered for `check`; values out of range and names that contradict each other
    raise at once (InvalidRequest, ConflictingFields). `null`, and an empty string where a number, a word or a file is
    expected, count as not given.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self._problems: list[dict[str, Any]] = []

    def has(self, *names: str) -> bool:
        """True when one of the names is given at all."""
        return any(self._values.get(name) is not None for name in names)

    def given(self, *names: str) -> bool:
        """True when one of the names has a value that is not empty."""
        return any(self._values.get(name) not in (None, "", b"") for name in names)

    def text(self, *names: str, required: bool = False) -> str | None:
        """Unicode text, as written."""
        return self._read(names, _text, "a valid string", required=required)[1]

    def word(self, *names: str) -> str | None:
        """A short text, trimmed; empty counts as not given."""
        value = self._read(names, lambda given: _text(given).strip() or None, "a valid string")[1]
        return value or None

    def number(self, *names: str, low: float, high: float) -> float | None:
        """A finite number within [low, high]."""
        return self._in_range(*self._read(names, _number, "a valid number"), low, high)

    def integer(self, *names: str, low: int, high: int) -> int | None:
        """A whole number within [low, high]."""
        return self._in_range(*self._read(names, _integer, "a valid integer"), low, high)

    def boolean(self, *names: str, default: bool) -> bool:
        """true/false/1/0/yes/no/on/off in any case, or a JSON boolean."""
        value = self._read(names, _boolean, f"one of {', '.join(TRUE_WORDS + FALSE_WORDS)}")[1]
        return default if value is None else value

    def recording(self, *names: str) -> bytes | None:
        """A file: a part of a form, or base64 text (bare or as a `data:` URL)."""
        return self._read(names, _recording, "a file, or base64 text of one")[1]

    def plain_text(self, *names: str, max_chars: int = 256) -> str | None:
        """The first of these that is a short text as it was sent, whatever its meaning; None when none is."""
        values = (self._values.get(name) for name in names)
        return next((value for value in values if isinstance(value, str) and len(value) <= max_chars), None)

    def missing(self, name: str) -> None:
        """Note that a field is missing."""
        self._problems.append({"type": "missing", "loc": ["body", name], "msg": "Field required", "input": None})

    def check(self) -> None:
        """Raises InvalidFields when a field was missing or of a wrong type."""
        if self._problems:
            raise InvalidFields(self._problems)

    def _read(
        self, names: tuple[str, ...], parse: Callable[[Any], T | None], expected: str, *, required: bool = False
    ) -> tuple[str, T | None]:
        given = [name for name in names if self._values.get(name) is not None]
        found: dict[str, T] = {}
        for name in given:
            value = self._values[name]
            try:
                parsed = parse(value)
            except (ValueError, OverflowError):
                self._wrong_type(name, expected, value)
                continue
            if parsed is not None:
                found[name] = parsed
        if not given and required:
            self.missing(names[0])
        if not found:
            return names[0], None
        first = next(iter(found))
        for name, parsed in found.items():
            if parsed != found[first]:
                raise ConflictingFields(f"{first} and {name} mean the same and have different values; send one.", name)
        return first, found[first]

    def _wrong_type(self, name: str, expected: str, value: Any) -> None:
        shown = str(value)[:100] if isinstance(value, str | bool | int | float) else None
        self._problems.append(
            {"type": "type_error", "loc": ["body", name], "msg": f"Input should be {expected}", "input": shown}
        )

    @staticmethod
    def _in_range(name: str, value: T | None, low: Any, high: Any) -> T | None:
        if value is not None and not low <= value <= high:
            raise InvalidRequest(f"{name} must be from {low} to {high}, not {str(value)[:40]}.", name)
        return value


def decode_recording(text: str) -> bytes:
    """Base64 text, bare or as a `data:` URL, to bytes. Raises ValueError."""
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise ValueError("not a base64 data URL")
    packed = "".join(text.split()).translate(str.maketrans("-_", "+/"))
    try:
        data = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    return data


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a string")
    value.encode("utf-8")  # half a surrogate pair is no text; UnicodeEncodeError is a ValueError
    return value


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        if not value.strip():
            return None
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("not a finite number")
    return float(value)


def _integer(value: Any) -> int | None:
    if isinstance(value, str):
        return int(value) if value.strip() else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("not a whole number")
    return value


def _boolean(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, str | int) else "?"
    if word == "":
        return None
    if word not in TRUE_WORDS + FALSE_WORDS:
        raise ValueError("not a boolean word")
    return word in TRUE_WORDS


def _recording(value: Any) -> bytes | None:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("not a file")
    return decode_recording(value) if value.strip() else None
