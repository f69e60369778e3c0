"""An engine in the same process, played by one that hands out known audio through the real AudioStream."""

import threading
from typing import Any, cast

import numpy as np
import pytest

from light_tts.audio_stream import AudioStream
from light_tts.bench.inproc import EngineTarget
from light_tts.bench.load import LoadPlan, run_load
from light_tts.bench.target import RequestFailed, SpeechOptions, SpeechRequest
from light_tts.errors import EngineFailure, Overloaded
from light_tts.types import AudioChunk, ReferenceAudio, SynthesisRequest

HALF_SECOND = np.full(12_000, 0.5, np.float32)


class FakeEngine:
    """Two chunks of half a second and an empty last one, written by another thread."""

    def __init__(self) -> None:
        self.requests: list[SynthesisRequest] = []
        self.streams: list[AudioStream] = []

    def submit(self, request: SynthesisRequest) -> AudioStream:
        self.requests.append(request)
        if request.text == "too many":
            raise Overloaded("The server is busy.")
        stream = AudioStream("r", timeout_s=30.0, max_pending_chunks=8)
        self.streams.append(stream)
        threading.Thread(target=self.write, args=(stream, request)).start()
        return stream

    def write(self, stream: AudioStream, request: SynthesisRequest) -> None:
        stream.put(AudioChunk(HALF_SECOND))
        if request.text == "breaks":
            stream.fail(EngineFailure("broken"))
        if request.text != "endless":
            stream.put(AudioChunk(HALF_SECOND))
            stream.put(AudioChunk(np.zeros(0, np.float32), is_last=True))


def target_of(engine: FakeEngine, **options: Any) -> EngineTarget:
    return EngineTarget(cast(Any, engine), SpeechOptions(**options))


async def test_streamed_audio_comes_chunk_by_chunk() -> None:
    engine = FakeEngine()
    rows = (await run_load(target_of(engine), ("hello",), LoadPlan(workers=2, num_requests=6), stream=True)).rows
    assert [(row.error, row.audio_s, len(row.arrivals)) for row in rows] == [(None, 1.0, 2)] * 6
    assert sorted(request.seed or 0 for request in engine.requests) == list(range(6))


async def test_a_buffered_answer_comes_in_one_piece() -> None:
    engine = FakeEngine()
    pieces = [piece async for piece in target_of(engine, stream=False, model="calm").speak(SpeechRequest("hello", 3))]
    assert [piece.samples.size for piece in pieces] == [24_000]
    assert (engine.requests[0].stream, engine.requests[0].model, engine.requests[0].seed) == (False, "calm", 3)


async def test_voice_or_recording_reaches_the_engine() -> None:
    engine = FakeEngine()
    async for _ in target_of(engine, voice="anna").speak(SpeechRequest("hello", 0)):
        pass
    async for _ in target_of(engine, prompt_audio=b"RIFF", prompt_text="hi").speak(SpeechRequest("hello", 0)):
        pass
    recording = engine.requests[1].voice
    assert engine.requests[0].voice == "anna"
    assert isinstance(recording, ReferenceAudio)
    assert (recording.data, recording.prompt_text) == (b"RIFF", "hi")


@pytest.mark.parametrize(("text", "kind"), [("too many", "OVERLOADED"), ("breaks", "INFERENCE_FAILED")])
async def test_errors_are_counted_by_their_code(text: str, kind: str) -> None:
    with pytest.raises(RequestFailed) as failure:
        async for _ in target_of(FakeEngine()).speak(SpeechRequest(text, 0)):
            pass
    assert failure.value.kind == kind


async def test_a_request_that_is_given_up_is_cancelled_in_the_engine() -> None:
    engine = FakeEngine()
    plan = LoadPlan(num_requests=1, timeout_s=0.2)
    rows = (await run_load(target_of(engine), ("endless",), plan, stream=True)).rows
    assert rows[0].error == "timeout"
    assert engine.streams[0].stats.finish == "abort"
