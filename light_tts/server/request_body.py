"""The body of a request as one flat dict: JSON, urlencoded and multipart forms. Strict about UTF-8 and numbers.

Form fields come as str, files as bytes, JSON values as they are. Every fault of the body is a MalformedBody.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from light_tts.server.errors import MalformedBody, UnsupportedContent

MAX_FIELDS = 64
INLINE_BYTES = 64 * 1024  # larger bodies are parsed on a thread, so that no other request waits for them


async def read_json(request: Request) -> dict[str, Any]:
    """The body as a JSON object, whatever content type it claims (`curl -d` sends none that fits)."""
    _refuse_encoding(request)
    body = await request.body()
    return parse_json(body) if len(body) < INLINE_BYTES else await asyncio.to_thread(parse_json, body)


async def read_values(request: Request) -> dict[str, Any]:
    """The body as a dict of fields, by its content type; a body that begins with `{` is JSON even without one.

    Raises MalformedBody, UnsupportedContent, RequestTooLarge.
    """
    _refuse_encoding(request)
    body = await request.body()
    content_type = request.headers.get("content-type", "")
    if len(body) < INLINE_BYTES:
        return parse_values(body, content_type)
    return await asyncio.to_thread(parse_values, body, content_type)


def parse_values(body: bytes, content_type: str) -> dict[str, Any]:
    """`read_values` once the bytes are here."""
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        return parse_multipart(body, options.get(b"boundary", b""))
    if kind == b"application/json" or body.lstrip()[:1] == b"{":
        return parse_json(body)
    if kind == b"application/x-www-form-urlencoded":
        return parse_urlencoded(body)
    if not body:
        return {}
    raise UnsupportedContent(
        "The request's content type is not read here; send multipart/form-data, application/x-www-form-urlencoded "
        "or application/json."
    )


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object. NaN, infinities, other encodings than UTF-8 and anything but an object are MalformedBody."""
    try:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise MalformedBody(f"The body is not valid UTF-8 (byte {error.start}).") from None
    except RecursionError:
        raise MalformedBody("The body's JSON is nested too deeply; a flat object is expected.") from None
    except ValueError as error:
        raise MalformedBody(f"The body is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise MalformedBody("The body must be a JSON object with named fields.")
    return value


def parse_urlencoded(body: bytes) -> dict[str, Any]:
    """An urlencoded form in UTF-8; of a field given twice the last counts."""
    try:
        text = body.decode("utf-8")
        return dict(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS))
    except UnicodeDecodeError:
        raise MalformedBody("The form is not valid UTF-8.") from None
    except ValueError:
        raise MalformedBody(f"The form has more than {MAX_FIELDS} fields.") from None


def parse_multipart(body: bytes, boundary: bytes) -> dict[str, Any]:
    """A multipart form: parts with a file name as bytes, the others as str."""
    if not boundary:
        raise MalformedBody("The multipart content type names no boundary.")
    form = _MultipartForm()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin_part,
                "on_part_data": form.add_data,
                "on_part_end": form.end_part,
                "on_header_field": form.add_header_name,
                "on_header_value": form.add_header_value,
                "on_header_end": form.end_header,
                "on_end": form.end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise MalformedBody(f"The multipart form cannot be read: {error}.") from None
    if not form.is_complete:
        raise MalformedBody("The multipart form ends before its closing boundary.")
    return form.values


class _MultipartForm:
    """Collects the parts while the parser calls."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.is_complete = False
        self._num_parts = 0

    def begin_part(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_FIELDS:
            raise MalformedBody(f"The form has more than {MAX_FIELDS} fields.")
        self._disposition = b""
        self._header_name, self._header_value = b"", b""
        self._data = bytearray()

    def add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name, self._header_value = b"", b""

    def add_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def end_part(self) -> None:
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        name = _utf8(options.get(b"name", b""), "A field's name")
        if not name:
            raise MalformedBody("A part of the multipart form has no name.")
        if b"filename" in options or b"filename*" in options:
            self.values[name] = bytes(self._data)
        else:
            self.values[name] = _utf8(bytes(self._data), f"The field {name!r}")

    def end(self) -> None:
        self.is_complete = True


def _utf8(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedBody(f"{what} is not valid UTF-8.") from None


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _refuse_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedContent(f"The body is sent as {encoding[:40]}; send it without a content encoding.")
