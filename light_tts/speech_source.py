"""What feeds speech tokens into a segment: a run of a language model, or codes at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from light_tts.types import FinishReason, TokenSink


class SpeechSource(Protocol):
    """Something that will feed speech tokens into a sink."""

    @property
    def busy_s(self) -> float:
        """Its share of the time of the stage that makes the tokens."""

    def abort(self) -> None:
        """Stop feeding."""


StartSpeech = Callable[[TokenSink, int], SpeechSource]  # (sink, segment index) -> the running source


class CodesAtHand:
    """A speech source whose codes are all there from the start."""

    busy_s = 0.0

    def abort(self) -> None:
        """Nothing runs."""


def start_codes(codes: tuple[int, ...], sink: TokenSink, index: int) -> SpeechSource:
    """Feed codes that are all there."""
    sink.put(codes)
    sink.end(FinishReason.STOP)
    return CodesAtHand()
