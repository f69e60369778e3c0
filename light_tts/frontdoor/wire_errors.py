"""Errors of the tree in `light_tts.errors` on their way to another process: class by name, message and plain values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from light_tts import errors
from light_tts.errors import EngineFailure, LightTTSError


class WireError(msgspec.Struct, array_like=True, frozen=True):
    """One error. attributes: what it holds besides its message, such as `field` or `retry_after_s`."""

    kind: str
    message: str
    attributes: dict[str, Any]


def to_wire(error: LightTTSError) -> WireError:
    """What travels of an error. A class of another module goes as its nearest ancestor of the tree."""
    kind = next(each for each in type(error).__mro__ if each.__module__ == errors.__name__)
    return WireError(kind.__name__, str(error), dict(vars(error)))


def from_wire(wire: WireError) -> LightTTSError:
    """The error that was sent; an unknown class becomes an EngineFailure."""
    kind = _KINDS.get(wire.kind, EngineFailure)
    error = kind.__new__(kind)
    error.args = (wire.message,)
    vars(error).update(wire.attributes)
    return error


def _tree(kind: type[LightTTSError]) -> Iterator[type[LightTTSError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child)


_KINDS = {kind.__name__: kind for kind in _tree(LightTTSError)}
