"""What the load generator asks: anything that can speak. Knows nothing of HTTP or of the engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class SpeechRequest:
    """One request of the load: what differs from its neighbours."""

    text: str
    seed: int


@dataclass(frozen=True)
class SpeechOptions:
    """What all requests of a load have in common.

    voice:         a registered name, or None for the server's default.
    prompt_audio:  a recording whose voice is cloned in each request, as a whole file.
    prompt_text:   its transcript.
    fields:        further fields of the request, for HTTP targets only.
    """

    stream: bool = True
    voice: str | None = None
    prompt_audio: bytes | None = None
    prompt_text: str | None = None
    model: str | None = None
    fields: tuple[tuple[str, str], ...] = ()


class Piece(NamedTuple):
    """Audio as it arrived. samples: [N] float32 within [-1, 1]."""

    samples: np.ndarray
    sample_rate_hz: int


class RequestFailed(Exception):
    """A request ended without its audio. `kind` is what failures are counted by: "http 503 OVERLOADED", "timeout"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Target(Protocol):
    """Where the load goes."""

    def speak(self, request: SpeechRequest) -> AsyncGenerator[Piece, None]:
        """The audio of one request, piece by piece as it arrives. Raises RequestFailed; closing it cancels the work."""
