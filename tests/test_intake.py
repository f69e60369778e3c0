"""How requests get in: on how many threads, with which deadline, with how much silence between their segments."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from light_tts.audio_stream import AudioStream
from light_tts.intake import Intake
from light_tts.narration import Narration
from light_tts.settings import EngineSettings
from light_tts.types import SynthesisRequest


def intake(num_threads: int = 1, **settings: Any) -> Intake:
    return Intake(
        EngineSettings(**settings),
        decoder=None,  # type: ignore[arg-type]
        num_threads=num_threads,
        when_revived=lambda _: None,
    )


def begin(entrance: Intake, prepare: Callable[[Narration], None]) -> AudioStream:
    stream = entrance.open_stream(AudioStream, SynthesisRequest("Hello."))
    entrance.begin(stream, prepare)
    return stream


def test_as_many_requests_are_prepared_at_once_as_there_are_threads() -> None:
    entrance, together = intake(num_threads=3), threading.Barrier(3, timeout=20.0)
    met: list[int] = []

    def prepare(narration: Narration) -> None:
        met.append(together.wait())

    for _ in range(3):
        begin(entrance, prepare)
    entrance.close()
    assert sorted(met) == [0, 1, 2]


@pytest.mark.parametrize(("asked_s", "granted_s"), [(None, 7.0), (3.0, 3.0), (100.0, 7.0)])
def test_the_time_of_a_request_is_limited(asked_s: float | None, granted_s: float) -> None:
    entrance = intake(request_timeout_s=7.0)
    stream = entrance.open_stream(AudioStream, SynthesisRequest("Hello.", timeout_s=asked_s))
    assert stream.deadline_s - stream.created_s == pytest.approx(granted_s)
    entrance.close()


def test_silence_between_segments_is_asked_for_in_samples() -> None:
    entrance, gaps = intake(sentence_gap_ms=250.0), list[int]()
    prepared = threading.Event()

    def prepare(narration: Narration) -> None:
        gaps.append(narration._gap_samples)
        prepared.set()

    begin(entrance, prepare)
    assert prepared.wait(20.0)
    entrance.close()
    assert gaps == [6000]
